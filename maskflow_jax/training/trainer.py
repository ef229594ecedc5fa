"""Training in a folder: from a config to a finished run."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from flax import nnx

from maskflow_jax.config import Config, TokenizerRecord
from maskflow_jax.config_files import read_config, to_dict
from maskflow_jax.data.dataset import TokenVideos, read_token_dataset
from maskflow_jax.data.pipeline import clip_batches, eval_clips
from maskflow_jax.io.files import differences
from maskflow_jax.models.attention import check_devices
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import make_flow, model_builder
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.curves import write_curves
from maskflow_jax.training.initial_weights import check_initial_weights, first_state
from maskflow_jax.training.loop import Hook, Parts, train_loop, validate
from maskflow_jax.training.metrics import MetricWriter
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.run_card import write_run_card
from maskflow_jax.training.scene_data import make_windows, with_conditions
from maskflow_jax.training.state import abstract_state, parameter_count
from maskflow_jax.training.steps import make_eval_step, make_train_step
from maskflow_jax.training.workdir import claim_workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run, with the parts that hooks use.

    Attributes:
        config: The config, with its tokenizer.
        workdir: Folder of the run.
        graphdef: Graph definition of the network.
        validation: The validation videos.
        writer: Writer of scalars and videos.
    """

    config: Config
    workdir: Path
    graphdef: nnx.GraphDef
    validation: TokenVideos
    writer: MetricWriter


HookFactory = Callable[[Run], Hook]
"""Function that makes the hook `hook(step, state)` of a run; called before the first step."""


def train(
    config: Config | Mapping[str, Any], workdir: str | Path, hooks: Iterable[HookFactory] = ()
) -> bool:
    """Trains in a folder, from its last checkpoint if there is one.

    Args:
        config: A `Config`, or the nested mappings of a config file.
        workdir: Folder of checkpoints, metrics and previews.
        hooks: Functions that make the hooks of the run, such as `generator.previews`.

    Returns:
        Whether the run is finished; False after SIGTERM.

    Raises:
        FileNotFoundError: if the dataset or the model of `run.initial_weights` is missing.
        ValueError: if settings are invalid or contradict each other, or the folder belongs to
            another config.
        NonFiniteLossError: if training diverged.
        CheckpointError: if a checkpoint could not be written, or none of them can be read.
    """
    workdir = Path(workdir)
    config, videos, validation = prepare(config)
    check_devices(config.model.attention)
    mesh = sharding.make_mesh(**to_dict(config.mesh))
    check_batch(config, mesh)
    flow, optimizer = make_flow(config), make_optimizer(config.optimizer)
    batches, clips = _open_clips(config, videos, validation)
    build = model_builder(config)
    graphdef, abstract = abstract_state(build, optimizer, mesh)
    check_initial_weights(config, workdir)
    claim_workdir(workdir, config)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    # Also closed after errors, so that a checkpoint in progress is completed.
    with (
        contextlib.closing(batches),
        contextlib.closing(Checkpoints(workdir, keep=config.run.keep_checkpoints)) as checkpoints,
    ):
        # Restored into an abstract state: a second, initialised state would take twice the memory.
        state = checkpoints.restore(abstract, batches)
        if state is None:
            state = first_state(config, build, optimizer, init_key, mesh)
        sizes = _announce(workdir, config, state, len(videos))
        with contextlib.closing(_metric_writer(workdir, config, int(state["step"]))) as writer:
            run = Run(
                config=config,
                workdir=workdir,
                graphdef=graphdef,
                validation=validation,
                writer=writer,
            )
            eval_step = make_eval_step(graphdef, flow, mesh)
            parts = Parts(
                train_step=make_train_step(graphdef, flow, optimizer, config.optimizer, state),
                batches=batches,
                evaluate=lambda params: validate(
                    eval_step, params, eval_clips(validation, **clips), mesh
                ),
                checkpoints=checkpoints,
                writer=writer,
                hooks=[make_hook(run) for make_hook in hooks],
            )
            state, finished = train_loop(parts, state, train_key, config.run, to_dict(config))
        _conclude(workdir, config, int(state["step"]), sizes)
    return finished


def prepare(
    config: Config | Mapping[str, Any],
) -> tuple[Config, TokenVideos, TokenVideos]:
    """Reads a config strictly and opens its dataset.

    Returns:
        The config with the dataset's tokenizer, the training and the validation videos.

    Raises:
        FileNotFoundError: if the dataset is missing.
        ValueError: if settings are invalid, or the dataset was made with other settings.
    """
    if not isinstance(config, Config):
        config = read_config(config)
    if not config.data.directory:
        raise ValueError("data.directory is empty; set it to the folder of a dataset")
    videos = read_token_dataset(config.data.directory, "train")
    validation = read_token_dataset(config.data.directory, config.data.validation_split)
    _check_source(config.data.directory, videos.metadata["source"], config.data.source)
    config = with_conditions(with_tokenizer(config, videos.tokenizer), videos)
    model_builder(config)
    make_flow(config)
    return config, videos, validation


def with_tokenizer(config: Config, identity: Mapping[str, Any]) -> Config:
    """Returns a config with the identity of the tokenizer of its dataset."""
    known = {field.name for field in dataclasses.fields(TokenizerRecord)}
    values = {name: value for name, value in identity.items() if name in known}
    record = TokenizerRecord(**{**values, "grid": tuple(values["grid"])})
    return dataclasses.replace(config, tokenizer=record)


def check_batch(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Checks that a batch divides into micro-batches and each of these over the devices.

    Raises:
        ValueError: if it does not.
    """
    batch_size, parts = config.data.batch_size, config.optimizer.micro_batches
    ways = math.prod(mesh.shape[axis] for axis in sharding.BATCH[0])
    if batch_size % (parts * ways):
        raise ValueError(
            f"data.batch_size {batch_size} does not divide into {parts} parts "
            f"(optimizer.micro_batches) over {ways} devices (mesh data x fsdp); make it a multiple "
            f"of {parts * ways}"
        )


def _open_clips(
    config: Config, videos: TokenVideos, validation: TokenVideos
) -> tuple[Any, dict[str, Any]]:
    """The training batches, and the arguments of `eval_clips` for the validation clips."""
    clips = {
        "clip_frames": config.data.clip_frames,
        "batch_size": config.data.batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    order = {"seed": config.seed, "num_workers": config.data.num_workers}
    batches = clip_batches(videos, windows=make_windows(config, videos), **order, **clips)
    clips["windows"] = make_windows(config, validation)
    eval_clips(validation, **clips)  # raises its errors before the first validation
    return batches, clips


def _metric_writer(workdir: Path, config: Config, from_step: int) -> MetricWriter:
    return MetricWriter(
        workdir, from_step=from_step, project=config.run.wandb, settings=to_dict(config)
    )


def _announce(workdir: Path, config: Config, state: dict, num_videos: int) -> dict[str, int]:
    """Logs the start of the run and writes its card; returns the sizes for the final card."""
    sizes = {"num_parameters": parameter_count(state["params"]), "num_videos": num_videos}
    logging.info(
        "%.1f M parameters on %d x %s, %d training videos, tokenizer %s",
        sizes["num_parameters"] / 1e6,
        jax.device_count(),
        jax.devices()[0].device_kind,
        num_videos,
        config.tokenizer.name,
    )
    steps = f"of {config.run.num_steps} steps"
    write_run_card(workdir, config, state=f"started at step {int(state['step'])} {steps}", **sizes)
    return sizes


def _conclude(workdir: Path, config: Config, step: int, sizes: dict[str, int]) -> None:
    """Draws the curves of a finished run and writes its final card."""
    wanted = config.run.num_steps
    if step >= wanted and jax.process_index() == 0:
        write_curves(workdir)
    state = f"finished after {step} steps" if step >= wanted else f"stopped at {step} of {wanted}"
    write_run_card(workdir, config, state=state, **sizes)


def _check_source(directory: str, made_from: Mapping, asked_for: Mapping) -> None:
    """Raises ValueError if the settings of a dataset's source differ from those of the config.

    Only the settings that the config states are compared.
    """
    # Converted by JSON, because a dataset's record has lists where a config has tuples.
    asked_for = json.loads(json.dumps(dict(asked_for)))
    there = {name: made_from.get(name) for name in asked_for}
    changed = differences(there, asked_for, "{} is {} there and {} in data.source")
    if made_from and changed:
        raise ValueError(
            f"the dataset in {directory} was made with other settings: {'; '.join(changed)}; "
            "set data.source to its settings, or make the dataset again"
        )
