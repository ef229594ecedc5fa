"""Digests notice any changed bit and any two values that changed places, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskflow_jax.training.digests import array_digests, changed_parts, json_digest

TREE = {
    "w": np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32),
    "half": np.arange(6, dtype=np.float16),
    "count": np.int32(7),
}


def digest(tree):
    return array_digests({"a": jax.tree.map(jnp.asarray, tree)})["a"]


@pytest.mark.parametrize("name", TREE)
@pytest.mark.parametrize("bit", [0, 7, 15])
def test_every_bit_counts(name, bit):
    changed = np.array(TREE[name])
    bits = changed.reshape(-1)[-1:].view(np.uint16 if changed.itemsize == 2 else np.uint32)
    bits ^= 1 << bit
    assert digest({**TREE, name: changed}) != digest(TREE)


def test_order_and_place_count():
    assert digest({**TREE, "w": TREE["w"][::-1].copy()}) != digest(TREE)
    swapped = TREE["w"].copy()
    swapped[0, 0, 0], swapped[4, 2, 3] = TREE["w"][4, 2, 3], TREE["w"][0, 0, 0]
    assert digest({**TREE, "w": swapped}) != digest(TREE)
    assert digest({"b": TREE["w"]}) != digest({"c": TREE["w"]})


def test_changed_parts_are_named():
    state = {"params": {"w": jnp.asarray(TREE["w"])}, "step": jnp.int32(3)}
    saved = {**array_digests(state), "data": [json_digest({"next": 1, "a": 2})]}
    position = json_digest({"a": 2, "next": 1})
    assert changed_parts(saved, {"train_state": state}, position) == []
    assert changed_parts(saved, {"train_state": {"step": jnp.int32(2)}}, None) == ["step"]
    assert changed_parts(saved, {"ema_params": state["params"]}, 1) == ["ema_params", "data"]
