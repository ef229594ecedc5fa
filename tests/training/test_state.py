"""The train state as it is created."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import assert_same, quick_compilation

from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.state import init_state, parameter_count


def create(world, seed):
    build = model_builder(world.config)
    with quick_compilation():
        return init_state(build, world.optimizer, jax.random.key(seed), world.mesh)


@pytest.fixture(scope="module")
def created(world):
    return create(world, 0)


def test_state_is_float32_with_an_average_of_its_own(world, created):
    graphdef, state = created
    assert set(state) == {"step", "params", "ema_params", "opt_state"}
    assert state["step"] == 0
    assert {leaf.dtype for leaf in jax.tree.leaves(state["params"])} == {jnp.dtype("float32")}
    assert_same(state["params"], state["ema_params"])
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)  # one buffer donated twice is an error
    expected = sharding.state_shardings(world.mesh, state)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == expected

    model = nnx.merge(graphdef, state["params"])
    tokens = jnp.full((1, 2, 4, 4), 8)
    assert model.logits(model.features(tokens, jnp.ones((1, 2)))).shape == (1, 2, 4, 4, 8)


def test_initialisation_follows_its_key(world, created):
    again, other = created[1]["params"], create(world, 1)[1]["params"]
    first = world.state()["params"]
    assert_same(first, again)
    first, other = (params["patch_projection"]["kernel"] for params in (first, other))
    assert np.abs(first - other).mean() > 0.01


def test_parameter_count():
    params = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(4), "d": np.zeros(())}}
    assert parameter_count(params) == 11
