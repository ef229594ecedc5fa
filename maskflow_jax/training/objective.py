"""The loss of the vocabulary head on a mesh, as a function that jax can differentiate.

Every device processes the counted positions of its own samples, and only sums are exchanged, once.
The batch is split over `data` and `fsdp`. Over `tensor` the token positions of a patch ("places")
are split, each of which has its own softmax. Where they cannot be split (a patch of one token), all
devices of that axis compute the same.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from maskflow_jax.flow import losses
from maskflow_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Layout:
    """Placement and block size of the loss.

    Attributes:
        mesh: The mesh.
        frame_block: Number of frames of every sample on which the head runs at one time, one place
            of their patches after the other.
    """

    mesh: Mesh
    frame_block: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_head_loss(layout: Layout, features, kernel, bias, targets, counted, weights):
    """Computes the sum of weights * cross-entropy, and the loss of every position.

    Args:
        layout: Mesh and size of the blocks.
        features: Features [B, T, N, D] in the compute type.
        kernel: Kernel of the head, float32 [D, P K].
        bias: Bias of the head, float32 [P K].
        targets: Clean tokens in the order of the head's outputs, int32 [B, T, N, P].
        counted: Positions that enter the sum, bool [B, T, N, P].
        weights: Weight of each position, float32 [B, T, N, P].

    Returns:
        The sum over counted positions, float32, which can be differentiated, and `losses.HeadLoss`
        of [B, T, N, P], which cannot.
    """
    loss, _ = _on_mesh(layout, features, kernel, bias, targets, counted, None)
    return _weighted(loss, counted, weights), loss


def _weighted(loss, counted, weights):
    # `where`, because the weight of a frame without masked tokens may be infinite.
    return jnp.sum(jnp.where(counted, weights * loss.cross_entropy, 0.0))


def _forward(layout, features, kernel, bias, targets, counted, weights):
    loss, gradients = _on_mesh(layout, features, kernel, bias, targets, counted, weights)
    # jax requires cotangents of the type of the features.
    gradients = gradients._replace(features=gradients.features.astype(features.dtype))
    return (_weighted(loss, counted, weights), loss), (gradients, loss.cross_entropy)


def _backward(layout, residuals, cotangents):
    del layout
    gradients, cross_entropy = residuals
    scale = cotangents[0]
    by_head = ((scale * g).astype(g.dtype) for g in gradients)
    return *by_head, None, None, scale * cross_entropy


weighted_head_loss.defvjp(_forward, _backward)


def _on_mesh(layout: Layout, features, kernel, bias, targets, counted, weights):
    mesh, (batch,) = layout.mesh, sharding.BATCH
    tensor = "tensor" if targets.shape[-1] % mesh.shape["tensor"] == 0 else None
    rows, places = P(batch), P(batch, None, None, tensor)
    head, offsets = P(None, tensor), P(tensor)

    def local(features, kernel, bias, targets, counted, *weights):
        shape = targets.shape  # this device's [B, T, N, P]
        flat = (a.reshape(-1, shape[-1]) for a in (targets, counted, *weights))
        loss, gradients = losses.head_loss(
            features.reshape(-1, features.shape[-1]),
            kernel,
            bias,
            *flat,
            block_rows=shape[0] * layout.frame_block * shape[2],
        )
        loss = losses.HeadLoss(*(a.reshape(shape) for a in loss))
        if gradients is None:
            return loss, None
        d_features = gradients.features.reshape(features.shape)
        if tensor and mesh.shape[tensor] > 1:
            d_features = jax.lax.psum(d_features, tensor)
        d_head = (jax.lax.psum(g, batch) for g in (gradients.kernel, gradients.bias))
        return loss, losses.HeadGradients(d_features, *d_head)

    arguments = (features, kernel, bias, targets, counted)
    in_specs = (rows, head, offsets, places, places)
    out_specs = (losses.HeadLoss(places, places), losses.HeadGradients(rows, head, offsets))
    if weights is None:
        out_specs = (out_specs[0], None)
    else:
        arguments, in_specs = (*arguments, weights), (*in_specs, places)
    # The check of varying values (`check_vma`) does not support loops whose length depends on the
    # device.
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(
        *arguments
    )
