"""Running an experiment in a folder: everything between a config and the training loop."""

import contextlib
from pathlib import Path

import jax
from absl import logging

from launch.previews import preview_hook
from maskflow_jax import sharding
from maskflow_jax.data.pipeline import clip_batches, eval_clips
from maskflow_jax.data.token_dataset import read_token_dataset
from maskflow_jax.training import experiment
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
    config = experiment.resolve(settings, videos["train"].tokenizer)
    experiment.check_config(config)
    _check_source(data["directory"], videos["train"].metadata["source"], config["data"]["source"])
    for section, make in (
        ("run", RunConfig),
        ("optimizer", OptimizerConfig),
        ("mesh", sharding.make_mesh),
    ):
        experiment.check_settings(section, make, config[section])
    run, optimizer_config = RunConfig(**config["run"]), OptimizerConfig(**config["optimizer"])
    flow, optimizer = experiment.make_flow(config), make_optimizer(optimizer_config)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    clips = {"clip_frames": data["clip_frames"], "batch_size": data["batch_size"], **share}
    batches = clip_batches(
        videos["train"], seed=config["seed"], num_workers=data["num_workers"], **clips
    )
    eval_clips(videos["test"], **clips)  # its errors should not wait for the first evaluation
    experiment.claim_workdir(workdir, config)

    mesh = sharding.make_mesh(**config["mesh"])
    init_key, train_key = jax.random.split(jax.random.key(config["seed"]))
    graphdef, state = init_state(experiment.model_builder(config), optimizer, init_key, mesh)
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
