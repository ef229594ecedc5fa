"""Digests of a train state, which detect changes between saving and restoring.

A digest is a sum of the arrays' bits, weighted by position, modulo 2^32. Every weight is odd, so a
single changed bit always changes the sum, and other changes are missed with a probability of 2^-32.
Sums of integers do not depend on their order, so arrays that are split over devices are summed on
these devices, and the digest is the same on any mesh.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def array_digests(trees: dict[str, Any]) -> dict[str, int]:
    """Computes the digests of trees of arrays on the devices that hold them.

    Args:
        trees: Trees of arrays of up to 32 bits by name. All processes call this with the same
            trees.

    Returns:
        A number below 2^32 for each name, the same in every process.
    """
    return {name: int(value) for name, value in jax.jit(_digests)(trees).items()}


def json_digest(value: Any) -> int:
    """Returns the digest of JSON values, which does not depend on the order of keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def changed_parts(
    saved: Mapping[str, Any], restored: Mapping[str, Any], position: int | None
) -> list[str]:
    """Finds the parts of a checkpoint that changed since they were saved.

    Args:
        saved: Digests by part of the state; under "data" a list with the digest of every process.
        restored: Items of the checkpoint; `train_state`, or a part of it, and `ema_params` are
            compared if they are there.
        position: Digest of this process's position in the data; None if it was not restored.

    Returns:
        Names of the parts whose digests differ.
    """
    parts = dict(restored.get("train_state", {}))
    if "ema_params" in restored:
        parts["ema_params"] = restored["ema_params"]
    found = array_digests(parts)
    changed = [name for name, digest in found.items() if saved.get(name) != digest]
    me = jax.process_index()
    if position is not None and saved.get("data", [])[me : me + 1] != [position]:
        changed.append("data")
    return changed


def _digests(trees: dict[str, Any]) -> dict[str, jax.Array]:
    def digest(tree):
        weights = (
            zlib.crc32(jax.tree_util.keystr(path).encode()) | 1  # odd
            for path, _ in jax.tree.leaves_with_path(tree)
        )
        leaves = map(_leaf_digest, jax.tree.leaves(tree))
        return sum(a * jnp.uint32(b) for a, b in zip(leaves, weights, strict=True))

    return {name: digest(tree) for name, tree in trees.items()}


def _leaf_digest(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, _BITS[leaf.dtype.itemsize]).astype(jnp.uint32)
    # The position in the array, computed without flattening, which would gather a split array.
    position, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        position, stride = position + along * jnp.uint32(stride % 2**32), stride * leaf.shape[axis]
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)
