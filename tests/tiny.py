"""A world small enough for tests of training: videos that stand still, and a model of two blocks.

Every video repeats one frame of random tokens, so that any clean frame tells all masked ones.
"""

from unittest import mock

import jax
import numpy as np
from distributions import quick_jit
from flax import nnx

from configs import maze
from maskflow_jax.config import OptimizerConfig
from maskflow_jax.config_files import read_config
from maskflow_jax.data.dataset import read_token_dataset, write_token_dataset
from maskflow_jax.data.pipeline import clip_batches
from maskflow_jax.parallel import sharding
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig
from maskflow_jax.training.building import make_flow, model_builder
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.state import init_state
from maskflow_jax.training.steps import make_eval_step, make_train_step

TOKENIZER = {
    "name": "t",
    "sha256": "0" * 64,
    "codebook_size": 8,
    "grid": [4, 4],
    "frame_size": 8,
}
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, ema_decay=0.9)
AUTOENCODER = VQGANConfig(
    frame_size=8,
    base_width=4,
    width_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    z_channels=4,
    embed_dim=4,
    codebook_size=8,
    norm_groups=2,
)
# Of the maze's smoke config, for the programs.
CHANGES = {
    "data.batch_size": 4,
    "data.clip_frames": 4,
    "data.source.fps": 5.0,
    "model.width": 16,
    "optimizer.decay_steps": 0,
    # So slow that a few steps improve the validation, whose frames are not those of training.
    "optimizer.learning_rate": 5e-4,
    "optimizer.warmup_steps": 200,
    "optimizer.beta2": 0.999,
    "optimizer.ema_decay": 0.999,
    "model.patch_size": 2,
    "flow.weighting": "snr",
    "run.num_steps": 6,
    "run.log_every": 1,
    "run.eval_every": 1000,
    "run.hook_every": 1000,
    "run.checkpoint_every": 1000,
}


def tiny_config(**changes):
    """A small config; `model__depth=4` changes the field of a section."""
    config = {
        "data": {"directory": "d", "tokenizer": "c", "clip_frames": 4},
        "model": {"depth": 2, "width": 16, "num_heads": 2, "remat": "full"},
        "flow": {"schedule": "quadratic", "frame_block": 2},
        "optimizer": {"learning_rate": 1e-2},
        "run": {"num_steps": 4},
        "tokenizer": TOKENIZER,
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section] = {**config.get(section, {}), field: value} if field else value
    return read_config(config)


def write_videos(directory, *, train=5, test=3, tokenizer=TOKENIZER):
    """Videos of 10, 11, 12... frames."""

    def still_videos(split, count, seed):
        rng = np.random.default_rng(seed)
        for index in range(count):
            frame = rng.integers(0, tokenizer["codebook_size"], tokenizer["grid"])
            yield f"{split} {index}", np.broadcast_to(frame, (10 + index, *frame.shape)), 5.0

    splits = {"train": still_videos("train", train, 0), "test": still_videos("test", test, 1)}
    write_token_dataset(directory, splits, tokenizer=tokenizer)


def random_params(build, *, seed=0, scale=1.0):
    """Normal parameters for the module that `build` makes, none of them zero; compiles nothing."""
    shapes = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(build())))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.float32(scale) * rng.normal(size=x.shape).astype(x.dtype), shapes
    )


def write_world(directory):
    """A tokenizer that was never trained, and a dataset that says it is the tokenizer's."""
    params = random_params(lambda: VQGAN(AUTOENCODER, nnx.Rngs(0)), scale=0.3)
    save_tokenizer(directory / "tokenizer", AUTOENCODER, params)
    write_videos(directory / "data", tokenizer=Tokenizer.load(directory / "tokenizer").identity)


def settings_of(world, **changes):
    """The smoke config on `write_world(world)`; `run__num_steps=3` changes a setting."""
    config = maze.get_config("smoke")
    changes = CHANGES | {name.replace("__", "."): value for name, value in changes.items()}
    with config.unlocked():
        config.update_from_flattened_dict(
            {"data.directory": f"{world}/data", "data.tokenizer": f"{world}/tokenizer", **changes}
        )
    return config


def quick_compilation():
    """Within it, code that calls `jax.jit` compiles in half the time, to slower programs."""
    return mock.patch.object(jax, "jit", quick_jit)


class World:
    """The parts of a training, compiled once for all tests."""

    def __init__(self, directory, mesh=None, **changes):
        write_videos(directory)
        self.config = tiny_config(**changes)
        self.directory, self.mesh = directory, mesh or sharding.make_mesh()
        self.flow, self.optimizer = make_flow(self.config), make_optimizer(OPTIMIZER)
        build = model_builder(self.config)
        with quick_compilation():
            self.graphdef, state = init_state(build, self.optimizer, jax.random.key(0), self.mesh)
            self.train_step = make_train_step(
                self.graphdef, self.flow, self.optimizer, OPTIMIZER, state
            )
            self.eval_step = make_eval_step(self.graphdef, self.flow, self.mesh)
        self._initial = jax.tree.map(np.array, state)
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        self.key = jax.random.key(1)

    def videos(self, split="train"):
        return read_token_dataset(self.directory, split)

    def batches(self):
        return clip_batches(self.videos(), clip_frames=4, batch_size=4, seed=0)

    def state(self):
        """A fresh initial state, to be donated."""
        return jax.device_put(self._initial, self._shardings)

    def step(self, state, batch, key=None):
        key = self.key if key is None else key
        return self.train_step(state, key, sharding.place_batch(self.mesh, batch))


def host_copy(tree):
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)


def assert_same(left, right):
    """Bitwise equality of two pytrees of arrays."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)
