"""The training objective: cross-entropy of the clean tokens at masked positions (Algorithm 1).

The vocabulary head is by far the largest product of the method and its logits the largest array
(1 GB in float32 for 16 frames of 32x32 tokens over 16,384 codes). Three things keep both small:

- The head runs only on the positions that are counted in the loss, on average half of all
  positions. They are sorted to the front and processed in as many blocks as they fill.
- Only one block of logits exists at a time.
- The objective is a sum with known weights, so the gradient of a block follows from its softmax. It
  is computed together with the loss, and no logit is computed twice.

The head of a patch of P tokens consists of P linear heads side by side, one for each token position
in the patch ("place"). The softmax and the sums are float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class HeadLoss(NamedTuple):
    """Loss and accuracy of the predictions at every position.

    Attributes:
        cross_entropy: Cross-entropy in nats, float32 [M, P]; 0 where not counted.
        correct: Whether the most likely class is right, bool [M, P]; False where not counted.
    """

    cross_entropy: jax.Array
    correct: jax.Array


class HeadGradients(NamedTuple):
    """Derivatives of sum(weights * cross_entropy), float32.

    Attributes:
        features: Derivatives by the features, [M, D].
        kernel: Derivatives by the kernel, [D, P K].
        bias: Derivatives by the bias, [P K].
    """

    features: jax.Array
    kernel: jax.Array
    bias: jax.Array


def head_loss(
    features: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    counted: jax.Array,
    weights: jax.Array | None = None,
    *,
    block_rows: int,
) -> tuple[HeadLoss, HeadGradients | None]:
    """Computes the cross-entropy of a linear head together with its gradients.

    Args:
        features: Features of M patches, [M, D] in the compute type.
        kernel: Kernel of the head, float32 [D, P K]; the K columns of one place stand side by side.
        bias: Bias of the head, float32 [P K].
        targets: Clean tokens, int32 [M, P].
        counted: Positions to predict, bool [M, P].
        weights: Weight of each position in the objective, float32 [M, P]; None for no gradients.
        block_rows: Number of positions whose logits exist at one time.

    Returns:
        The loss of every position, and the gradients of the weighted sum, or None without weights.
        JAX must not differentiate through this function.

    Source: MaskFlow, arXiv 2502.11234, Algorithm 1.
    """
    num_places = targets.shape[1]
    num_classes = kernel.shape[1] // num_places
    block_rows = min(block_rows, targets.shape[0])

    def place(index, carry):
        loss, gradients = carry
        start = index * num_classes
        head = (
            jax.lax.dynamic_slice_in_dim(kernel, start, num_classes, axis=1),
            jax.lax.dynamic_slice_in_dim(bias, start, num_classes),
        )
        at_place = (targets[:, index], counted[:, index])
        if weights is not None:
            at_place += (weights[:, index],)
        start_features = None if gradients is None else gradients.features
        found, parts = _one_place(features, head, at_place, start_features, block_rows)
        loss = HeadLoss(*(a.at[:, index].set(b) for a, b in zip(loss, found, strict=True)))
        if gradients is None:
            return loss, None
        update = jax.lax.dynamic_update_slice_in_dim
        return loss, HeadGradients(
            parts.features,
            update(gradients.kernel, parts.kernel, start, axis=1),
            update(gradients.bias, parts.bias, start, axis=0),
        )

    loss = HeadLoss(jnp.zeros(targets.shape), jnp.zeros(targets.shape, bool))
    zeros = HeadGradients(*(jnp.zeros(a.shape, jnp.float32) for a in (features, kernel, bias)))
    return jax.lax.fori_loop(0, num_places, place, (loss, None if weights is None else zeros))


def _one_place(features, head, at_place, d_features, block_rows: int):
    """Returns the loss [M] at one place of all patches, and gradients if `d_features` is given.

    `at_place` holds the targets, the counted positions and, for gradients, the weights, [M] each.
    The gradients by the features are added to `d_features`.
    """
    kernel, bias = (a.astype(features.dtype) for a in head)
    num_rows = features.shape[0]
    order = jnp.argsort(~at_place[1], stable=True)  # counted positions first
    num_counted = jnp.sum(at_place[1])
    # Rows past the end read zeros, which are not counted, and their results are dropped.
    order = jnp.pad(order, (0, -num_rows % block_rows), constant_values=num_rows)

    def block(index, carry):
        loss, gradients = carry
        rows = jax.lax.dynamic_slice_in_dim(order, index * block_rows, block_rows)
        x, targets, counted, *weights = (
            a.at[rows].get(mode="fill", fill_value=0) for a in (features, *at_place)
        )
        logits = jnp.dot(x, kernel, preferred_element_type=jnp.float32) + bias
        shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
        exponentials = jnp.exp(shifted)
        total = jnp.sum(exponentials, axis=-1)
        picked = jnp.take_along_axis(shifted, targets[:, None], axis=-1)[:, 0]
        cross_entropy = jnp.where(counted, jnp.log(total) - picked, 0.0)
        correct = counted & (jnp.argmax(logits, axis=-1) == targets)
        loss = HeadLoss(
            loss.cross_entropy.at[rows].set(cross_entropy, mode="drop"),
            loss.correct.at[rows].set(correct, mode="drop"),
        )
        if gradients is None:
            return loss, None
        weight = jnp.where(counted, weights[0], 0.0)
        hit = jnp.arange(logits.shape[-1]) == targets[:, None]
        d_logits = exponentials * (weight / total)[:, None] - jnp.where(hit, weight[:, None], 0.0)
        narrow = d_logits.astype(features.dtype)
        wide = {"preferred_element_type": jnp.float32}
        return loss, HeadGradients(
            gradients.features.at[rows].add(jnp.dot(narrow, kernel.T, **wide), mode="drop"),
            gradients.kernel + jnp.dot(x.T, narrow, **wide),
            gradients.bias + jnp.sum(d_logits, axis=0),
        )

    loss = HeadLoss(jnp.zeros(num_rows), jnp.zeros(num_rows, bool))
    gradients = None
    if d_features is not None:
        gradients = HeadGradients(d_features, *(jnp.zeros(a.shape, jnp.float32) for a in head))
    num_blocks = (num_counted + block_rows - 1) // block_rows
    return jax.lax.fori_loop(0, num_blocks, block, (loss, gradients))
