"""The mesh and its rules; on 8 fake devices in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny import World, assert_same, host_copy

from maskflow_jax import sharding
from maskflow_jax.training.checkpoints import Checkpoints

COLUMN, ROW = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp")
REPLICATED = P()
BLOCK = {
    "attention/qkv": COLUMN,
    "attention/proj": ROW,
    "mlp/fc1": COLUMN,
    "mlp/fc2": ROW,
    "modulation": COLUMN,
}
PARAMETERS = {
    "head/kernel": P("fsdp", "tensor"),
    "head/bias": P("tensor"),
    "token_embedding/embedding": P(None, "fsdp"),
    "patch_projection/kernel": P(None, "fsdp"),
    "patch_projection/bias": REPLICATED,
    "final_modulation/kernel": P(None, "fsdp"),
    "final_modulation/bias": REPLICATED,
    "time_embedding/fc1/kernel": P(None, "fsdp"),
    "time_embedding/fc1/bias": REPLICATED,
    "time_embedding/fc2/kernel": P(None, "fsdp"),
    "time_embedding/fc2/bias": REPLICATED,
}
for half in ("spatial", "temporal"):
    PARAMETERS |= {f"blocks/{half}/{name}/kernel": spec for name, spec in BLOCK.items()}
    PARAMETERS |= {f"blocks/{half}/{name}/bias": REPLICATED for name in BLOCK}


def paths(tree):
    return {
        sharding.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check_specs(state):
    """Every parameter has its expected spec, and its average and moments the same."""
    expected = {
        f"{top}/{name}": s for top in ("params", "ema_params") for name, s in PARAMETERS.items()
    }
    for moment in ("mu", "nu"):
        expected |= {f"opt_state/1/0/{moment}/{name}": s for name, s in PARAMETERS.items()}
    found = {name: leaf.sharding.spec for name, leaf in paths(state).items()}
    scalars = {name for name, leaf in paths(state).items() if not leaf.ndim}
    assert found == expected | dict.fromkeys(scalars, REPLICATED)
    assert scalars == {"step", "opt_state/1/0/count"}


def check_memory(state):
    """A kernel of the blocks is split in four, and so is the state as a whole, nearly."""
    kernel = state["opt_state"][1][0].mu["blocks"]["spatial"]["mlp"]["fc1"]["kernel"]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 4}
    device = jax.devices()[0]
    leaves = jax.tree.leaves(state)
    held = sum(s.data.size for x in leaves for s in x.addressable_shards if s.device == device)
    assert held < 0.4 * sum(leaf.size for leaf in leaves)


def losses(world, batches, num_steps=3):
    found, state = [], world.state()
    for batch in batches[:num_steps]:
        state, metrics = world.step(state, batch)
        found.append(float(metrics["loss"]))
    return found, state


def eight_devices(directory, reference):
    """Runs in the other process, against the losses of one device."""
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    world = World(directory / "eight", mesh=mesh)
    check_specs(world.state())
    check_memory(world.state())
    saved = np.load(reference)
    found, state = losses(world, saved["batches"])
    np.testing.assert_allclose(found, saved["losses"], rtol=1e-5)
    check_specs(state)
    assert world.train_step._cache_size() == 1

    checkpoints, iterator = Checkpoints(directory / "run"), world.batches()
    checkpoints.save(state, iterator, world.config)
    checkpoints.wait()
    restored = checkpoints.restore(world.state(), iterator)
    check_specs(restored)
    assert_same(host_copy(restored), host_copy(state))
    world.step(restored, saved["batches"][0])
    assert world.train_step._cache_size() == 1
    checkpoints.close()

    batch = sharding.place_batch(mesh, saved["batches"][0])
    assert {shard.data.shape[0] for shard in batch.addressable_shards} == {1}
    sums = world.eval_step(state["params"], world.key, batch, np.ones(4, bool))
    assert sums.count.sharding.is_fully_replicated
    with pytest.raises(ValueError, match=r"a batch of 6 does not divide over 4 devices"):
        sharding.place_batch(mesh, np.zeros((6, 4, 4, 4)))
    assert sharding.make_mesh(tensor=2).shape == {"data": 4, "fsdp": 1, "tensor": 2}
    assert sharding.make_mesh().shape["data"] == 8


def test_eight_devices_do_what_one_does(world, tmp_path):
    iterator = world.batches()
    batches = np.stack([next(iterator) for _ in range(3)])
    found, _ = losses(world, batches)
    np.savez(tmp_path / "reference.npz", losses=found, batches=batches)
    here = Path(__file__).parent
    script = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]; import pathlib; "
        f"import test_sharding; path = pathlib.Path({str(tmp_path)!r}); "
        "test_sharding.eight_devices(path, path / 'reference.npz')"
    )
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_dimension_that_cannot_be_divided_stays_whole():
    mesh = jax.sharding.AbstractMesh((1, 4, 2), sharding.AXES)
    shapes = {
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


def test_one_device_holds_everything(world):
    for leaf in jax.tree.leaves(world.state()):
        assert leaf.sharding.is_fully_replicated
