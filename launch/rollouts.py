"""What the programs share: a trained run, and the way from its weights and a context to video."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from maskflow_jax import sharding
from maskflow_jax.sampling.rollout import RolloutPlan, rollout
from maskflow_jax.sampling.samplers import SamplerConfig, make_window_sampler
from maskflow_jax.training import experiment
from maskflow_jax.training.checkpoints import Checkpoints


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


def load_run(workdir: Path) -> Run:
    """Loads the config and the newest averaged weights of a run.

    Raises:
        FileNotFoundError: if the folder is no run's.
        CheckpointError: if it has no checkpoint that can be read.
    """
    config = experiment.read_config(workdir)
    build = experiment.model_builder(config)
    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(abstract))
    shardings = sharding.state_shardings(sharding.make_mesh(), shapes)
    checkpoints = Checkpoints(workdir)
    params = checkpoints.restore_ema_params(
        jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            shardings,
        )
    )
    checkpoints.close()
    return Run(config=config, graphdef=nnx.graphdef(abstract), params=params)


def make_chunk_sampler(
    graphdef: nnx.GraphDef,
    config: Mapping[str, Any],
    sampler: SamplerConfig,
    context_frames: int,
) -> Callable:
    """Compiles one window's sampler: (params, keys, tokens, known) -> tokens.

    Args:
        graphdef: graph definition of the network.
        config: resolved config of its run.
        sampler: the sampler.
        context_frames: known frames at the start of every window.
    """
    height, width = config["tokenizer"]["grid"]
    sample = make_window_sampler(
        sampler,
        experiment.make_flow(config).schedule,
        chunk_size=config["data"]["clip_frames"],
        context_frames=context_frames,
        tokens_per_frame=height * width,
        mask_id=config["tokenizer"]["codebook_size"],
    )

    @jax.jit
    def sample_chunk(params, keys, tokens, known):
        model = nnx.merge(graphdef, params)
        return sample(model.features, model.logits, keys, tokens, known)[0]

    return sample_chunk


def extend(
    sample_chunk: Callable,
    params: dict,
    context: np.ndarray,
    plan: RolloutPlan,
    *,
    mask_id: int,
    seed: int,
    first_sample: int = 0,
    stream: int = 0,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """Continues videos chunk by chunk.

    Sample i's key is folded from the seed, the stream and its number, so it is the same video in
    any batch.

    Args:
        sample_chunk: from `make_chunk_sampler`.
        params: weights.
        context: tokens int [B, m, H, W].
        plan: the rollout.
        mask_id: the mask token.
        seed: of all samples.
        first_sample: number of the first sample of this batch.
        stream: tells rollouts of one sample apart that must not repeat each other's draws.
        progress: label of a progress bar over the chunks; None for no bar.

    Yields:
        The context, then the new frames of every chunk, int32 [B, h, H, W].
    """
    root = jax.random.fold_in(jax.random.key(seed), stream)
    numbers = np.arange(first_sample, first_sample + len(context))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, numbers)

    def chunk_fn(keys, tokens, known):
        # Back on the host: a device array would come home with the parameters' sharding, and the
        # second chunk would be compiled anew for it.
        return np.asarray(sample_chunk(params, keys, tokens, known))

    chunks = rollout(keys, context, plan, chunk_fn, mask_id=mask_id)
    yield context
    for chunk in tqdm(chunks, progress, plan.num_chunks, unit="chunk", disable=progress is None):
        yield np.asarray(chunk)
