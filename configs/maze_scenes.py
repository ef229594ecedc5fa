"""Walks through mazes in scenes with captions: windows of 3 scenes of 6 frames, 8x8 tokens.

    python -m launch.prepare_data --source=maze_scenes --output=data/maze_scenes --tokenizer=maze
    python -m launch.train --config=configs/maze_scenes.py --workdir=runs/maze_scenes

The network is that of the mazes (configs/maze.py) with captions of 15 words, made for two processor
cores; docs/scenes.md describes scenes, captions and measures.

Arguments follow a colon, separated by commas: `unrelated` puts scenes of different walks together
(the first stage of two), `labels` conditions on labels instead of captions, `all_captions` shows
every frame the captions of all scenes, `no_context` never makes the scenes before the last one
clean; `constant`, `time_independent` and `isolated` are as for every config
(`config_files.apply_arguments`), and `smoke` trains for seconds.
"""

import ml_collections

from configs import maze
from maskflow_jax.config_files import apply_arguments, sampler_settings
from maskflow_jax.sampling.samplers import MGM


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings."""
    config = maze.get_config()
    config.data.directory = "data/maze_scenes"
    config.data.clip_frames = 18
    config.optimizer.decay_steps = config.run.num_steps = 4_500
    config.scenes.condition = "captions"
    config.scenes.num_scenes = 3
    # Fixed scenes are sampled in one window, and every further one with two scenes before it.
    config.sampling.context_frames, config.sampling.stride = 12, None
    sampler = MGM(num_steps=24, noise="random", independent_time=None)
    config.sampling.sampler = sampler_settings(sampler)
    return apply_arguments(
        config,
        arguments,
        unrelated=_unrelated,
        labels=_labels,
        all_captions=_all_captions,
        no_context=_no_context,
        smoke=_smoke,
    )


def _unrelated(config: ml_collections.ConfigDict) -> None:
    config.scenes.windows = "unrelated"
    config.scenes.context_probability = 0.0


def _labels(config: ml_collections.ConfigDict) -> None:
    config.scenes.condition = "labels"


def _all_captions(config: ml_collections.ConfigDict) -> None:
    config.scenes.scope = "all"


def _no_context(config: ml_collections.ConfigDict) -> None:
    config.scenes.context_probability = 0.0


def _smoke(config: ml_collections.ConfigDict) -> None:
    """A few steps of a tiny model."""
    config.data.batch_size = 8
    config.model.depth, config.model.width, config.model.num_heads = 2, 32, 2
    config.optimizer.warmup_steps = 1
    config.run.num_steps = config.optimizer.decay_steps = 4
    config.run.log_every = config.run.eval_every = config.run.hook_every = 2
    config.run.checkpoint_every = 2
    config.sampling.sampler.num_steps = 2
