"""A dry run: describes the processes, devices, mesh, batch, state, data and folder of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskflow_jax.config import Config
from maskflow_jax.config_files import read_config, to_dict
from maskflow_jax.data.pipeline import eval_clips
from maskflow_jax.models.attention import check_devices
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import make_flow, model_builder
from maskflow_jax.training.initial_weights import check_initial_weights
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.scene_data import make_windows
from maskflow_jax.training.state import init_state
from maskflow_jax.training.trainer import check_batch, prepare, with_tokenizer


def describe(
    config: Config | Mapping[str, Any],
    workdir: str | Path,
    hosts: Sequence[str],
    identity: Mapping[str, Any] | None = None,
) -> str:
    """Describes a run without starting it, and raises the errors with which it would end.

    Nothing is written and no parameter is initialised. A missing dataset is reported in the text.

    Args:
        config: A `Config`, or the nested mappings of a config file.
        workdir: Folder of the run.
        hosts: Host name of every process, by process.
        identity: Identity of the config's tokenizer, which gives the size of the state if there is
            no dataset.

    Returns:
        Lines of text; an empty text in all processes but the first.

    Raises:
        ValueError: if the mesh does not cover the devices, or a setting cannot be trained with.
    """
    config = config if isinstance(config, Config) else read_config(config)
    mesh = sharding.make_mesh(**to_dict(config.mesh))
    lines = [*_device_lines(mesh, hosts), _batch_line(mesh, config)]
    try:
        config, videos, validation = prepare(config)
    except FileNotFoundError as error:
        found = f"MISSING: {error}"
        config = with_tokenizer(config, identity) if identity else config
    else:
        sizes = {"clip_frames": config.data.clip_frames, "batch_size": config.data.batch_size}
        make_windows(config, videos)
        eval_clips(validation, windows=make_windows(config, validation), **sizes)
        found = (
            f"{len(videos)} training and {len(validation)} validation videos in "
            f"{config.data.directory}"
        )
    if config.scenes.active and config.conditions is None:
        lines.append("state: unknown without a dataset, which states the captions")
    elif config.tokenizer is None:
        lines.append("state: unknown without a dataset or a tokenizer, which know the codebook")
    else:
        make_flow(config)
        check_devices(config.model.attention)
        check_batch(config, mesh)
        check_initial_weights(config, Path(workdir))
        lines.append(_state_line(mesh, config))
    folders = (Path(workdir) / "checkpoints").glob("*")
    steps = [int(path.name) for path in folders if path.name.isdigit()]
    last = f"goes on from step {max(steps)}" if steps else "has no checkpoint: starts at step 0"
    lines += [f"dataset: {found}", f"workdir: {workdir} {last}"]
    return "\n".join(lines) + "\n" if jax.process_index() == 0 else ""


def _device_lines(mesh: jax.sharding.Mesh, hosts: Sequence[str]) -> list[str]:
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    lines = [f"{len(hosts)} processes, {mesh.size} devices, mesh {axes}"]
    for process, host in enumerate(hosts):
        devices = [
            (device.id, place, device.device_kind)
            for place, device in np.ndenumerate(mesh.devices)
            if device.process_index == process
        ]
        places = ", ".join(f"{number} at {place}" for number, place, _ in devices)
        kinds = ", ".join(sorted({kind for *_, kind in devices}))
        lines.append(f"process {process} on {host}: {len(devices)} x {kinds}: {places}")
    return lines


def _batch_line(mesh: jax.sharding.Mesh, config: Config) -> str:
    batch, processes = config.data.batch_size, jax.process_count()
    ways = math.prod(mesh.shape[axis] for axis in sharding.BATCH[0])
    if batch % ways or ways % processes:
        return (
            f"batch: {batch} clips do NOT divide over {ways} ways (data x fsdp) and {processes} "
            "processes; change data.batch_size or the mesh"
        )
    return (
        f"batch: {batch} clips of {config.data.clip_frames} frames, {batch // processes} read by "
        f"each process, {batch // ways} on each device"
    )


def _state_line(mesh: jax.sharding.Mesh, config: Config) -> str:
    optimizer = make_optimizer(config.optimizer)
    build = model_builder(config)
    state = jax.eval_shape(
        lambda key: init_state(build, optimizer, key, mesh)[1], jax.random.key(0)
    )
    sizes = {name: _bytes_on_a_device(mesh, {name: state[name]}) for name in state}
    parts = ", ".join(f"{name} {size / 1e6:.3f}" for name, size in sizes.items())
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return (
        f"state: {sum(sizes.values()) / 1e6:.3f} MB on each device ({parts}), "
        f"{whole / 1e6:.3f} MB in all; activations come on top"
    )


def _bytes_on_a_device(mesh: jax.sharding.Mesh, state: Any) -> int:
    shardings = sharding.state_shardings(mesh, state)
    return sum(
        math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    )
