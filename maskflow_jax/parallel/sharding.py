"""Sharding of arrays over devices: one mesh and one table of rules, outside of the models.

The mesh has three axes: `data` splits the batch, `fsdp` splits the batch and the parameters, and
`tensor` splits the matrix products within a layer. A rule consists of a regular expression for the
path of an array in the train state and of the mesh axes of its dimensions. The expression is
searched for anywhere in the path, so a parameter, its moving average and its Adam moments follow
the same rule. On one device nothing is split.

Over `tensor` the features between the layers are not split: the first product of an attention or an
MLP splits its outputs, the second product contracts over them, and one sum over the devices
follows. The shifts, scales and gates of these features must then not be split either, so the
modulation layer contracts over `tensor`, too. If its outputs were split, every device would hold
some of the shifts and none of the gates, and would have to fetch the others in every block.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

TABLES = r"(token|label|word)_embedding/embedding$"
# Leaves of `blocks` have the stacked layers as their first dimension.
RULES: tuple[tuple[str, P], ...] = (
    (r"blocks/.*/(qkv|kv|fc1)/kernel$", P(None, "fsdp", "tensor")),
    (r"blocks/.*/(qkv|kv|fc1)/bias$", P(None, "tensor")),
    (r"blocks/.*/(proj|fc2|modulation)/kernel$", P(None, "tensor", "fsdp")),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"head/bias$", P("tensor")),
    # Not by rows: with the mask token, a table has an odd number of rows.
    (r"(token|label|word)_embedding/embedding$", P(None, ("fsdp", "tensor"))),
    (
        r"(patch_projection|caption_projection|final_modulation|fc1|fc2)/kernel$",
        P("tensor", "fsdp"),
    ),
)


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Arranges all devices of all processes in a mesh.

    Args:
        data: Number of parts into which only the batch is split; -1 takes all devices that the
            other axes leave.
        fsdp: Number of parts into which the batch and the parameters are split.
        tensor: Number of parts into which the products within a layer are split.

    Returns:
        A mesh with automatic axes ("data", "fsdp", "tensor").

    Raises:
        ValueError: if the axes do not multiply to the number of devices.
    """
    devices, asked = jax.device_count(), data
    if data == -1:
        data = devices // max(fsdp * tensor, 1)
    if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != devices:
        raise ValueError(
            f"a mesh of data {asked} x fsdp {fsdp} x tensor {tensor} does not cover {devices} "
            "devices; make the product equal to their number, with data -1 for all that are left"
        )
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def path_name(path: tuple) -> str:
    """Writes a tree path as keys joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Looks up the sharding of every array of a train state.

    Args:
        mesh: The mesh.
        state: Pytree of arrays or of their shapes.

    Returns:
        The same pytree with a NamedSharding at each leaf. A dimension that its axis does not divide
        is not split, and arrays without a rule are replicated.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(mesh, path_name(path), leaf.shape)), state
    )


def gather_tables(mesh: Mesh, params: Any) -> Any:
    """Replicates the embedding tables on every device; for use inside a jitted function.

    A lookup in a table whose features are split returns split features, and the devices then
    exchange an amount of data that grows with the batch. The size of the table is fixed.

    Args:
        mesh: The mesh.
        params: Parameters of a network.

    Returns:
        The parameters, with the constraint on the tables.
    """

    def gather(path: tuple, leaf: jax.Array) -> jax.Array:
        if mesh.size == 1 or not re.search(TABLES, path_name(path)):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, replicated(mesh))

    return jax.tree_util.tree_map_with_path(gather, params)


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...]) -> P:
    for pattern, spec in RULES:
        if re.search(pattern, name):
            return P(*(_fitting(mesh, axes, n) for axes, n in zip(spec, shape, strict=True)))
    return P()


def _fitting(mesh: Mesh, axes: str | tuple[str, ...] | None, size: int) -> Any:
    """Returns as many of the first axes of a rule as divide a dimension of that size."""
    if not isinstance(axes, tuple):
        return axes if axes is not None and size % mesh.shape[axes] == 0 else None
    while axes and size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes or None


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose first dimension is the batch."""
    return NamedSharding(mesh, BATCH)


def mesh_of(tree: Any) -> Mesh | None:
    """Returns the mesh that holds a tree of arrays; None if they are on no mesh."""
    place = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    return place.mesh if isinstance(place, NamedSharding) else None


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Makes global arrays of the batches that the processes hold, split over `data` and `fsdp`.

    Args:
        mesh: The mesh.
        batch: Pytree of NumPy arrays, this process's share, with the batch as first dimension.

    Returns:
        The same pytree of global jax arrays.

    Raises:
        ValueError: if the batch does not divide over the devices.
    """
    ways = _batch_ways(mesh)
    if ways % jax.process_count():
        raise ValueError(
            f"{jax.process_count()} processes hold different clips, but the mesh splits a batch in "
            f"{ways} ways (data x fsdp) only; keep `tensor` within a process"
        )

    def place(local: np.ndarray) -> jax.Array:
        whole = len(local) * jax.process_count()
        if whole % ways:
            raise ValueError(
                f"a batch of {whole} does not divide over {ways} devices (data x fsdp); choose a "
                "multiple of it"
            )
        return jax.make_array_from_process_local_data(
            split_batch(mesh), local, global_shape=(whole, *local.shape[1:])
        )

    return jax.tree.map(place, batch)


def place_samples(mesh: Mesh, batch: Any) -> Any:
    """Splits a batch that every process holds whole over `data` and `fsdp`.

    A batch that does not divide evenly is padded with copies of its last sample. Samples are
    computed independently of each other, so the caller only drops the results of the copies.

    Args:
        mesh: The mesh.
        batch: Pytree of NumPy arrays or typed random keys, with the batch as first dimension.

    Returns:
        The same pytree of global jax arrays, of the padded batch size.
    """

    def place(whole: Any) -> jax.Array:
        if jax.dtypes.issubdtype(whole.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(whole))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(whole))
        rows = np.arange(len(whole) + -len(whole) % _batch_ways(mesh))
        filled = np.asarray(whole)[np.minimum(rows, len(whole) - 1)]
        return jax.make_array_from_callback(filled.shape, split_batch(mesh), filled.__getitem__)

    return jax.tree.map(place, batch)


def map_samples(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a function of parameters and samples so that each device computes its own samples.

    The compiler would split most of such a function automatically, but not all of it: for a top-k
    it would gather the logits of every sample. Over `tensor` the compiler still splits the function
    in the way the parameters are split; parameters that are split over `fsdp` are gathered once at
    the start.

    Args:
        mesh: The mesh.
        function: Function (params, samples) -> pytree of arrays [B, ...], where `samples` is a
            pytree of arrays [B, ...]. Each row of the result may depend on the same row of the
            samples only.

    Returns:
        A function of the same arguments; B must be a multiple of `data` times `fsdp`.
    """
    # All axes are manual unless the compiler has to split over `tensor`: kernels with their own
    # partitioning rule (cuDNN's attention) do not work where only some of the axes are manual.
    axes = set(AXES if mesh.shape["tensor"] == 1 else BATCH[0])
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(P(), BATCH),
        out_specs=BATCH,
        axis_names=axes,
        check_vma=False,
    )


def _batch_ways(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH[0])
