"""Where arrays live: one mesh, one table of rules, nothing of it inside the model.

The mesh has three axes: `data` splits the batch, `fsdp` splits the batch and the parameters,
`tensor` splits parameters along the dimension that a matrix product does not contract. A rule is a
regular expression on the path of an array in the train state and the axes of its dimensions. It is
searched for, not matched from the start, so a parameter, its moving average and its Adam moments
obey the same row. With one device every array is simply there.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# Leaves of `blocks` have the stacked layers as their first dimension.
RULES: tuple[tuple[str, P], ...] = (
    (r"blocks/.*/(qkv|fc1|modulation)/kernel$", P(None, "fsdp", "tensor")),
    (r"blocks/.*/(proj|fc2)/kernel$", P(None, "tensor", "fsdp")),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"head/bias$", P("tensor")),
    (r"token_embedding/embedding$", P(None, "fsdp")),
    (r"(patch_projection|final_modulation|fc1|fc2)/kernel$", P(None, "fsdp")),
)


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Arranges all devices of all processes in a mesh.

    Args:
        data: ways to split the batch only; -1 takes all devices that the others leave.
        fsdp: ways to split batch and parameters.
        tensor: ways to split within a layer.

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
        mesh: the mesh.
        state: pytree of arrays or of their shapes.

    Returns:
        The same pytree with a NamedSharding at each leaf. A dimension that its axis does not divide
        is not split, and arrays without a rule are replicated.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(mesh, path_name(path), leaf.shape)), state
    )


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...]) -> P:
    for pattern, spec in RULES:
        if re.search(pattern, name):
            return P(
                *(
                    axis if axis is not None and size % mesh.shape[axis] == 0 else None
                    for axis, size in zip(spec, shape, strict=True)
                )
            )
    return P()


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Makes global arrays of the batches that the processes hold, split over `data` and `fsdp`.

    Args:
        mesh: the mesh.
        batch: pytree of numpy arrays, this process's share, batch dimension first.

    Returns:
        The same pytree of global jax arrays.

    Raises:
        ValueError: if the batch does not divide over the devices.
    """
    ways = math.prod(mesh.shape[axis] for axis in BATCH[0])
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
            NamedSharding(mesh, BATCH), local, global_shape=(whole, *local.shape[1:])
        )

    return jax.tree.map(place, batch)
