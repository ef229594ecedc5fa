"""The memory of a train step as the compiler plans it, for models that need not fit anywhere."""

import dataclasses
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.config import Config
from maskflow_jax.config_files import to_dict
from maskflow_jax.parallel import sharding
from maskflow_jax.scenes.conditions import SceneClips, Scenes
from maskflow_jax.training.building import make_flow, model_builder
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.state import abstract_state
from maskflow_jax.training.steps import make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A compiled train step that was never run.

    Attributes:
        lower_seconds: tracing and lowering.
        compile_seconds: compilation.
        state_bytes: the train state on a device.
        temporary_bytes: activations, gradients and all else that a step needs beside it.
    """

    lower_seconds: float
    compile_seconds: float
    state_bytes: int
    temporary_bytes: int

    @property
    def bytes(self) -> int:
        """All that a step needs on a device."""
        return self.state_bytes + self.temporary_bytes


def plan_train_step(config: Config, batch_size: int) -> Plan:
    """Compiles the train step of a config; nothing is allocated.

    Args:
        config: Config with a tokenizer.
        batch_size: clips over all devices.

    Returns:
        The plan, of this process's kind of device.
    """
    optimizer = make_optimizer(config.optimizer)
    mesh = sharding.make_mesh(**to_dict(config.mesh))
    graphdef, state = abstract_state(model_builder(config), optimizer, mesh)
    step = make_train_step(graphdef, make_flow(config), optimizer, config.optimizer, state)
    shape = (batch_size, config.data.clip_frames, *config.tokenizer.grid)
    placed = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    batch = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placed)
    if config.conditions is not None:
        scenes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape), a.dtype, sharding=placed),
            _conditions(config),
        )
        batch = SceneClips(batch, scenes)
    started = time.perf_counter()
    lowered = step.lower(state, jax.random.key(0), batch)
    traced = time.perf_counter()
    memory = lowered.compile().memory_analysis()
    return Plan(
        lower_seconds=traced - started,
        compile_seconds=time.perf_counter() - traced,
        state_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.argument_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
    )


def _conditions(config: Config) -> Scenes:
    """Conditions of one window, of the shapes that training has; their values do not matter."""
    record, count = config.conditions, config.scenes.num_scenes
    scene_id = np.zeros(config.data.clip_frames, np.int32)
    if record.kind == "labels":
        return Scenes(scene_id, labels=np.zeros(count, np.int32))
    shape = (count, record.length)
    words = np.zeros(shape, np.int32)
    captions = np.zeros((*shape, record.width), np.float32) if record.width else words
    return Scenes(scene_id, captions=captions, caption_mask=np.zeros(shape, bool))


def table(config: Config, batch_sizes: Iterable[int]) -> str:
    """The plans of several batches, a row each."""
    lines = [
        "| batch | state GB | beside it GB | together GB | lower and compile |",
        "|---|---|---|---|---|",
    ]
    for batch_size in batch_sizes:
        plan = plan_train_step(config, batch_size)
        lines.append(
            f"| {batch_size} | {plan.state_bytes / 1e9:.1f} | {plan.temporary_bytes / 1e9:.1f} "
            f"| {plan.bytes / 1e9:.1f} | {plan.lower_seconds + plan.compile_seconds:.1f} s |"
        )
    return "\n".join(lines)
