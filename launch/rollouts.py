"""What the programs share: a trained run, and the way from its weights and a context to video."""

import ast
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

from maskflow_jax.models.model_folder import find_model, read_model
from maskflow_jax.parallel import sharding
from maskflow_jax.sampling.rollout import Plan, Window, rollout
from maskflow_jax.sampling.samplers import READ_BY, SamplerConfig, make_window_sampler
from maskflow_jax.training import trainer
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.state import abstract_params

# What another sampler takes over from a run's: not its steps, nor the guidance's time.
COMMON_SETTINGS = (
    "temperature",
    "top_k",
    "top_p",
    "context_time",
    "independent_time",
    "guidance_weight",
    "context_cache",
    "frame_block",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model.

    Attributes:
        config: the resolved config.
        graphdef: graph definition of the network.
        params: its averaged parameters.
    """

    config: Mapping[str, Any]
    graphdef: nnx.GraphDef
    params: dict

    @property
    def mask_id(self) -> int:
        """The mask token."""
        return self.config["tokenizer"]["codebook_size"]


def load_run(workdir: Path, mesh: jax.sharding.Mesh | None = None) -> Run:
    """Loads the config and the newest averaged weights of a run, or a model folder.

    Args:
        workdir: folder of the run or of a model, or the name of a model that ships.
        mesh: where the weights go; all devices of all processes by default.

    Raises:
        FileNotFoundError: if the folder is no run's.
        ValueError: if its weights have another format.
        CheckpointError: if it has no checkpoint that can be read.
    """
    folder = find_model(workdir)
    config = trainer.read_config(folder or workdir)
    trainer.check_weights_format(config)
    build = trainer.model_builder(config)
    abstract = abstract_params(build, mesh or sharding.make_mesh())
    if folder is None:
        checkpoints = Checkpoints(workdir)
        params = checkpoints.restore_ema_params(abstract)
        checkpoints.close()
    else:
        params = _place(read_model(folder)[1], abstract, folder)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return Run(config=config, graphdef=graphdef, params=params)


def _place(params: dict, abstract: dict, folder: Path) -> dict:
    """Puts parameters where they belong; ValueError if they are not those of the config."""
    shapes, wanted = jax.tree.map(np.shape, params), jax.tree.map(lambda leaf: leaf.shape, abstract)
    if shapes != wanted:
        raise ValueError(
            f"the weights in {folder} do not fit its config.json: copy both again from one place"
        )
    return jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), params, abstract)


def change_sampler(
    settings: Mapping[str, Any], name: str | None, changes: Iterable[str]
) -> SamplerConfig:
    """A run's sampler with changes; another sampler keeps the settings that are every sampler's.

    Args:
        settings: of the run's sampler.
        name: another sampler's name, or None.
        changes: "setting=value" each.

    Raises:
        ValueError: if a change is no setting of the sampler, or its value is of another type.
    """
    settings = dict(settings)
    if name not in (None, settings["name"]):
        settings = {k: v for k, v in settings.items() if k in COMMON_SETTINGS} | {"name": name}
    types = typing.get_type_hints(SamplerConfig)
    sampler = settings["name"]
    known = [k for k in types if k != "name" and sampler in READ_BY.get(k, (sampler,))]
    for change in changes:
        setting, _, text = change.partition("=")
        if setting not in known:
            raise ValueError(
                f"{change}: {sampler} has no setting {setting!r}; choose from {', '.join(known)}"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a word
            value = text
        if type(value) is int and isinstance(0.0, types[setting]):
            value = float(value)
        if not isinstance(value, types[setting]):
            raise ValueError(f"{change}: {text!r} is not {types[setting]}")
        settings[setting] = value
    trainer.check_settings("sampling.sampler", SamplerConfig, settings)
    return SamplerConfig(**settings)


def make_chunk_sampler(
    graphdef: nnx.GraphDef,
    config: Mapping[str, Any],
    sampler: SamplerConfig,
    context_frames: int,
    *,
    backward: bool = False,
) -> Callable:
    """Compiles the sampler of windows: (params, keys, tokens, known, Window) -> tokens.

    Where the parameters live on a mesh, the other arrays are to be split over it as
    `sharding.place_samples` does, and so are the tokens that come back.

    Args:
        graphdef: graph definition of the network.
        config: resolved config of its run.
        sampler: the sampler.
        context_frames: known frames at the start of every window but perhaps the first.
        backward: frames run from last to first.
    """
    height, width = config["tokenizer"]["grid"]
    schedule = trainer.make_flow(config).schedule

    @functools.cache
    def compiled(context: int, stage: str, mesh: jax.sharding.Mesh | None):
        sample = make_window_sampler(
            sampler,
            schedule,
            chunk_size=config["data"]["clip_frames"],
            context_frames=context,
            tokens_per_frame=height * width,
            mask_id=config["tokenizer"]["codebook_size"],
            backward=backward,
        )

        def sample_chunk(params, keys, tokens, known):
            model = nnx.merge(graphdef, params)
            return sample(model, keys, tokens, known, stage)[0]

        if mesh is None:
            return jax.jit(sample_chunk)
        return jax.jit(
            sharding.map_samples(mesh, sample_chunk), out_shardings=sharding.split_batch(mesh)
        )

    def sample_chunk(params, keys, tokens, known, window: Window):
        # More context than usual needs no program of its own; less does, because the vocabulary
        # head runs on new frames only. But a cache must hold all frames that are clean.
        context = window.context
        if not sampler.context_cache:
            context = min(context, context_frames)
        run = compiled(context, window.stage, sharding.mesh_of(params))
        return run(params, keys, tokens, known)

    return sample_chunk


def extend(
    sample_chunk: Callable,
    params: dict,
    context: np.ndarray,
    plan: Plan,
    *,
    mask_id: int,
    seed: int,
    given: tuple[np.ndarray, np.ndarray] | None = None,
    first_sample: int = 0,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """Continues videos chunk by chunk.

    Sample i's key is folded from the seed and its number, so it is the same video in any batch.
    The batch is split over the devices that hold the weights; of a mesh of several processes, all
    must call this with the same arguments.

    Args:
        sample_chunk: from `make_chunk_sampler`.
        params: weights.
        context: tokens int [B, known_at_start, H, W].
        plan: the rollout.
        mask_id: the mask token.
        seed: of all samples.
        given: (tokens, known) of the whole video, for further known tokens; see `rollout`.
        first_sample: number of the first sample of this batch.
        progress: label of a progress bar over the chunks; None for no bar.

    Yields:
        The context, then the new frames of every chunk, int32 [B, h, H, W].
    """
    numbers = np.arange(first_sample, first_sample + len(context))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), numbers)
    mesh = sharding.mesh_of(params)

    def chunk_fn(keys, tokens, known, window):
        # From the host and back to it: the device arrays of the chunk before have a sharding of
        # their own, and the second chunk would be compiled anew for it.
        inputs = (keys, np.asarray(tokens), np.asarray(known))
        if mesh is not None:
            inputs = sharding.place_samples(mesh, inputs)
        return _to_host(sample_chunk(params, *inputs, window))[: len(tokens)]

    chunks = rollout(keys, context, plan, chunk_fn, mask_id=mask_id, given=given)
    yield context
    for chunk in tqdm(chunks, progress, len(plan.windows), unit="chunk", disable=progress is None):
        yield np.asarray(chunk)


def _to_host(tokens: jax.Array) -> np.ndarray:
    """All of an array, of which other processes may hold parts."""
    if tokens.is_fully_addressable:
        return np.asarray(tokens)
    return multihost_utils.process_allgather(tokens, tiled=True)
