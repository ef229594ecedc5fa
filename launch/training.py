"""Running an experiment in a folder: everything between a config and the training loop."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from launch.previews import preview_hook
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.data.pipeline import clip_batches, eval_clips
from maskflow_jax.parallel import sharding
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training import trainer
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.loop import RunConfig, held_out, train
from maskflow_jax.training.metrics import MetricWriter
from maskflow_jax.training.optimizer import OptimizerConfig, make_optimizer
from maskflow_jax.training.state import init_state, parameter_count
from maskflow_jax.training.steps import make_eval_step, make_train_step


def train_from_config(settings: dict, workdir: Path) -> bool:
    """Runs an experiment in a folder, from its last checkpoint if there is one.

    Args:
        settings: an experiment file's sections as a plain dict.
        workdir: folder of the run.

    Returns:
        Whether the run is finished; False after SIGTERM.

    Raises:
        FileNotFoundError: if the dataset is missing.
        ValueError: for settings that do not go together, or a folder that is another config's.
        NonFiniteLossError: if training diverged.
        CheckpointError: if a checkpoint could not be written, or none of them can be read.
    """
    data = settings["data"]
    videos = {split: read_token_dataset(data["directory"], split) for split in ("train", "test")}
    config = trainer.resolve(settings, videos["train"].tokenizer)
    _check_source(data["directory"], videos["train"].metadata["source"], config["data"]["source"])
    run, optimizer_config = _check_settings(config)
    mesh = sharding.make_mesh(**config["mesh"])
    _check_batch(mesh, data["batch_size"], optimizer_config.micro_batches)
    flow, optimizer = trainer.make_flow(config), make_optimizer(optimizer_config)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    clips = {"clip_frames": data["clip_frames"], "batch_size": data["batch_size"], **share}
    batches = clip_batches(
        videos["train"], seed=config["seed"], num_workers=data["num_workers"], **clips
    )
    eval_clips(videos["test"], **clips)  # its errors should not wait for the first evaluation
    trainer.claim_workdir(workdir, config)

    init_key, train_key = jax.random.split(jax.random.key(config["seed"]))
    graphdef, state = init_state(trainer.model_builder(config), optimizer, init_key, mesh)
    logging.info(
        "%.1f M parameters on %d x %s, %d training videos",
        parameter_count(state["params"]) / 1e6,
        jax.device_count(),
        jax.devices()[0].device_kind,
        len(videos["train"]),
    )
    # Closed on errors too: a checkpoint on its way to the disk arrives.
    with (
        contextlib.closing(batches),
        contextlib.closing(Checkpoints(workdir, keep=run.keep_checkpoints)) as checkpoints,
        contextlib.closing(MetricWriter(workdir)) as writer,
    ):
        hooks = [preview_hook(graphdef, config, videos["test"], workdir, writer)]
        state = checkpoints.restore(state, batches) or state
        eval_step = make_eval_step(graphdef, flow, mesh)
        _, finished = train(
            state=state,
            train_step=make_train_step(graphdef, flow, optimizer, optimizer_config, state),
            key=train_key,
            batches=batches,
            evaluate=lambda params: held_out(
                eval_step, params, eval_clips(videos["test"], **clips), mesh
            ),
            checkpoints=checkpoints,
            config=config,
            run=run,
            writer=writer,
            hooks=hooks,
        )
    return finished


def _check_settings(config: dict) -> tuple[RunConfig, OptimizerConfig]:
    """The lengths and the optimiser of a resolved config whose settings all exist.

    Raises:
        ValueError: naming what does not.
    """
    trainer.check_config(config)
    for section, make in (
        ("run", RunConfig),
        ("optimizer", OptimizerConfig),
        ("mesh", sharding.make_mesh),
    ):
        trainer.check_settings(section, make, config[section])
    return RunConfig(**config["run"]), OptimizerConfig(**config["optimizer"])


def _check_batch(mesh: jax.sharding.Mesh, batch_size: int, micro_batches: int) -> None:
    """Raises ValueError if a batch cannot be cut into parts and each part split over devices."""
    ways = math.prod(mesh.shape[axis] for axis in sharding.BATCH[0])
    if batch_size % (micro_batches * ways):
        raise ValueError(
            f"data.batch_size {batch_size} does not divide into {micro_batches} parts "
            f"(optimizer.micro_batches) over {ways} devices (mesh data x fsdp); make it a multiple "
            f"of {micro_batches * ways}"
        )


def _check_source(directory: str, made_from: dict, asked_for: dict) -> None:
    """Raises ValueError if a dataset says that it was made from something else than the config.

    A config lists what matters to it; of an imported dataset that may be the frame rate alone.
    """
    differences = [
        f"{name} is {made_from.get(name)!r} there and {asked_for.get(name)!r} in data.source"
        for name in sorted(asked_for)
        if made_from.get(name) != asked_for.get(name)
    ]
    if made_from and differences:
        raise ValueError(
            f"the dataset in {directory} was made with other settings: {'; '.join(differences)}; "
            "set data.source to its settings, or make it again with --overwrite"
        )


def describe(settings: dict, workdir: Path, hosts: Sequence[str]) -> str:
    """Says what a run would put where: processes, devices, mesh, batch, state, data, folder.

    Nothing is written and no parameter is made. A dataset that is missing is part of the answer.

    Args:
        settings: an experiment file's sections as a plain dict.
        workdir: folder of the run.
        hosts: every process's host name, by process.

    Returns:
        Lines of text; none for processes other than the first.

    Raises:
        ValueError: if the mesh does not cover the devices, or a setting is none that could be
            trained with.
    """
    trainer.check_settings("mesh", sharding.make_mesh, settings["mesh"])
    mesh = sharding.make_mesh(**settings["mesh"])
    tokenizer, found = _look_at_data(settings["data"])
    lines = [*_device_lines(mesh, hosts), _batch_line(mesh, settings["data"])]
    if tokenizer is None:
        lines.append("state: unknown without a dataset or a tokenizer, which say the codebook")
    else:
        config = trainer.resolve(settings, tokenizer)
        _, optimizer = _check_settings(config)
        trainer.make_flow(config)
        _check_batch(mesh, settings["data"]["batch_size"], optimizer.micro_batches)
        lines.append(_state_line(mesh, config))
    steps = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
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


def _batch_line(mesh: jax.sharding.Mesh, data: dict) -> str:
    batch, processes = data["batch_size"], jax.process_count()
    ways = math.prod(mesh.shape[axis] for axis in sharding.BATCH[0])
    if batch % ways or ways % processes:
        return (
            f"batch: {batch} clips do NOT divide over {ways} ways (data x fsdp) and {processes} "
            "processes; change data.batch_size or the mesh"
        )
    return (
        f"batch: {batch} clips of {data['clip_frames']} frames, {batch // processes} read by each "
        f"process, {batch // ways} on each device"
    )


def _state_line(mesh: jax.sharding.Mesh, config: dict) -> str:
    optimizer = make_optimizer(OptimizerConfig(**config["optimizer"]))
    build = trainer.model_builder(config)
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


def _look_at_data(data: dict) -> tuple[dict | None, str]:
    """The tokenizer's identity, if the dataset or the tokenizer say it, and what is there."""
    try:
        splits = [read_token_dataset(data["directory"], split) for split in ("train", "test")]
    except (FileNotFoundError, ValueError) as error:
        found = f"MISSING or unusable: {error}"
    else:
        return splits[0].tokenizer, (
            f"{len(splits[0])} training and {len(splits[1])} held-out videos in {data['directory']}"
        )
    try:
        return Tokenizer.load(data["tokenizer"]).identity, found
    except (FileNotFoundError, ValueError) as error:
        return None, f"{found}; and the tokenizer: {error}"
