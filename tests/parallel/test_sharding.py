"""The mesh and its rules; what devices then do is in `test_many_devices`."""

import math
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from tiny import OPTIMIZER, tiny_config

from maskflow_jax.models.latte import Latte, latte_config
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.optimizer import make_optimizer

COLUMN, ROW = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp")
REPLICATED = P()
BLOCK = {
    "attention/qkv/kernel": COLUMN,
    "attention/qkv/bias": P(None, "tensor"),
    "attention/proj/kernel": ROW,
    "attention/proj/bias": REPLICATED,
    "mlp/fc1/kernel": COLUMN,
    "mlp/fc1/bias": P(None, "tensor"),
    "mlp/fc2/kernel": ROW,
    "mlp/fc2/bias": REPLICATED,
    "modulation/kernel": ROW,
    "modulation/bias": REPLICATED,
}
PARAMETERS = {
    "head/kernel": P("fsdp", "tensor"),
    "head/bias": P("tensor"),
    "token_embedding/embedding": P(None, ("fsdp", "tensor")),
    "patch_projection/kernel": P("tensor", "fsdp"),
    "patch_projection/bias": REPLICATED,
    "final_modulation/kernel": P("tensor", "fsdp"),
    "final_modulation/bias": REPLICATED,
    "time_embedding/fc1/kernel": P("tensor", "fsdp"),
    "time_embedding/fc1/bias": REPLICATED,
    "time_embedding/fc2/kernel": P("tensor", "fsdp"),
    "time_embedding/fc2/bias": REPLICATED,
}
for half in ("spatial", "temporal"):
    PARAMETERS |= {f"blocks/{half}/{name}": spec for name, spec in BLOCK.items()}
LARGE = 1e6  # bytes


def paths(tree):
    return {
        sharding.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def abstract_mesh(data, fsdp, tensor):
    return jax.sharding.AbstractMesh((data, fsdp, tensor), sharding.AXES)


def abstract_state(build):
    """Shapes and types of a train state; nothing is allocated."""
    params = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(build(nnx.Rngs(0)))))
    return {
        "step": jax.ShapeDtypeStruct((), np.int32),
        "params": params,
        "ema_params": params,
        "opt_state": jax.eval_shape(make_optimizer(OPTIMIZER).init, params),
    }


def test_average_and_moments_lie_where_their_parameter_does():
    state = abstract_state(model_builder(tiny_config()))
    places = paths(sharding.state_shardings(abstract_mesh(2, 2, 2), state))
    tops = ("params", "ema_params", "opt_state/1/0/mu", "opt_state/1/0/nu")
    expected = {f"{top}/{name}": spec for top in tops for name, spec in PARAMETERS.items()}
    scalars = dict.fromkeys(("step", "opt_state/1/0/count"), REPLICATED)
    assert {name: place.spec for name, place in places.items()} == expected | scalars


@pytest.fixture(scope="module")
def largest():
    """The train state of the largest model."""
    config = latte_config("XL/2", codebook_size=16_384)
    return abstract_state(lambda rngs: Latte(config, rngs))


@pytest.mark.parametrize(
    ("shape", "overhead"),  # of what a device holds over an equal share of the state
    [((1, 8, 1), 0.006), ((1, 4, 2), 0.004), ((1, 1, 8), 0.003), ((1, 8, 8), 0.025)],
)
def test_no_device_holds_much_more_than_its_share(largest, shape, overhead):
    """The largest model: 12.2 GB of parameters, average and moments."""
    mesh = abstract_mesh(*shape)
    places, ways = paths(sharding.state_shardings(mesh, largest)), math.prod(shape)
    whole = held = 0
    for name, leaf in paths(largest).items():
        share = math.prod(places[name].shard_shape(leaf.shape))
        if leaf.size * 4 > LARGE:
            assert share == leaf.size // ways, name
        whole, held = whole + leaf.size * 4, held + share * 4
    assert 12.1e9 < whole < 12.3e9
    assert 1.0 <= held * ways / whole < 1 + overhead


def test_the_head_is_split_over_tensor(largest):
    places = sharding.state_shardings(abstract_mesh(1, 1, 8), largest)["params"]["head"]
    head = largest["params"]["head"]
    width, outputs = head["kernel"].shape
    assert places["kernel"].shard_shape((width, outputs)) == (width, outputs // 8)
    assert places["bias"].shard_shape((outputs,)) == (outputs // 8,)


def test_a_dimension_that_cannot_be_divided_stays_whole():
    mesh = abstract_mesh(1, 4, 2)
    shapes = {
        "token_embedding": {"embedding": (3, 12)},
        "head": {"kernel": (6, 10), "bias": (9,)},
        "blocks": {"a": {"qkv": {"kernel": (3, 8, 6)}}},
    }
    tree = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    specs = {
        name: place.spec for name, place in paths(sharding.state_shardings(mesh, tree)).items()
    }
    assert specs == {
        "head/kernel": P(None, "tensor"),
        "head/bias": P(None),
        "token_embedding/embedding": P(None, ("fsdp",)),
        "blocks/a/qkv/kernel": P(None, "fsdp", "tensor"),
    }


@pytest.mark.parametrize(
    "axes", [{"data": 3}, {"fsdp": 2}, {"tensor": 0}, {"data": 0}, {"fsdp": -1, "data": -1}]
)
def test_a_mesh_that_does_not_cover_the_devices(axes):
    names = "data {data} x fsdp {fsdp} x tensor {tensor}"
    asked = names.format(**{"data": -1, "fsdp": 1, "tensor": 1, **axes})
    with pytest.raises(ValueError, match=f"{asked} does not cover {jax.device_count()} devices"):
        sharding.make_mesh(**axes)


def test_one_device_holds_everything(largest):
    for place in jax.tree.leaves(sharding.state_shardings(abstract_mesh(1, 1, 1), largest)):
        assert place.is_fully_replicated


def test_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match=r"a batch of 6 does not divide over 4 devices"):
        sharding.place_batch(abstract_mesh(2, 2, 2), np.zeros((6, 4, 4, 4)))


def test_samples_are_filled_up_and_keys_stay_keys():
    mesh = sharding.make_mesh()
    keys = jax.random.split(jax.random.key(0), 3)
    with mock.patch.object(sharding, "_batch_ways", lambda _: 4):
        placed, tokens = sharding.place_samples(mesh, (keys, np.arange(3)))
    np.testing.assert_array_equal(tokens, [0, 1, 2, 2])
    assert (placed[:3] == keys).all()
    assert placed[3] == keys[2]
    assert sharding.mesh_of({"keys": placed}) == sharding.mesh_of([tokens]) == mesh


def test_the_host_is_no_mesh():
    assert sharding.mesh_of({"a": np.zeros(3)}) is None
    assert sharding.mesh_of({"a": jax.numpy.zeros(3)}) is None
