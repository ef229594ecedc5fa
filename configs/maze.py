"""Generated mazes: 64x64 frames at 10 per second, 8x8 tokens of 512 codes, clips of 16 frames.

    python -m launch.prepare_data --source=maze --output=data/maze --tokenizer=maze
    python -m launch.train --config=configs/maze.py --workdir=runs/maze

This is the recipe of the model that ships under the name "maze": 2.0 million parameters, made for
two processor cores; its folder holds its figures (card.md). docs/maze.md describes the mazes.

Arguments follow a colon, separated by commas: `constant`, `time_independent` and `isolated` change
training (`config_files.apply_arguments`), `smoke` trains for seconds; `demo` and `demo_smoke` are
what `launch.demo` trains.
"""

import ml_collections

from maskflow_jax.config_files import apply_arguments, default_config, sampler_settings
from maskflow_jax.sampling.samplers import MGM


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings."""
    config = default_config()
    config.data.directory = "data/maze"
    config.data.tokenizer = "maze"
    config.data.batch_size = 2  # many small steps: two clips hold 2,048 tokens
    config.data.source.fps = 10.0
    config.model.depth, config.model.width, config.model.num_heads = 6, 128, 4
    config.model.patch_size = 1
    config.flow.weighting = "none"
    config.flow.frame_block = 4
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = config.run.num_steps = 30_000
    config.optimizer.final_learning_rate_fraction = 0.02
    config.optimizer.beta2 = 0.99
    config.optimizer.ema_decay = 0.998
    config.optimizer.ema_warmup = True
    config.run.eval_every = config.run.checkpoint_every = 1_000
    # Whole windows at once mix colours, and the most confident first stops turning.
    config.sampling.context_frames, config.sampling.stride = 15, 1
    sampler = MGM(num_steps=12, noise="random", independent_time=None)
    config.sampling.sampler = sampler_settings(sampler)
    config.sampling.frame_block = 4
    return apply_arguments(config, arguments, demo=_demo, demo_smoke=_demo_smoke, smoke=_smoke)


def _demo(config: ml_collections.ConfigDict) -> None:
    """A model for two cores and five minutes: smaller, shorter clips, and fewer mazes."""
    config.data.directory = "data/maze_demo"
    config.data.clip_frames, config.data.batch_size = 8, 4
    config.model.depth, config.model.width, config.model.num_heads = 4, 96, 3
    config.optimizer.warmup_steps = 50
    config.run.num_steps = config.optimizer.decay_steps = 2_400
    config.run.log_every = 20
    config.run.eval_every, config.run.checkpoint_every, config.run.hook_every = 800, 800, 2_400
    config.sampling.context_frames = 7


def _demo_smoke(config: ml_collections.ConfigDict) -> None:
    """The demo's path in seconds."""
    _demo(config)
    config.model.depth, config.model.width = 2, 48
    config.optimizer.warmup_steps = 5
    config.run.num_steps = config.optimizer.decay_steps = 30
    config.run.log_every = 10
    config.run.eval_every = config.run.checkpoint_every = config.run.hook_every = 30
    config.sampling.sampler.num_steps = 4


def _smoke(config: ml_collections.ConfigDict) -> None:
    """A few steps of a tiny model."""
    config.data.clip_frames, config.data.batch_size = 4, 8
    config.model.depth, config.model.width, config.model.num_heads = 2, 32, 2
    config.optimizer.warmup_steps = 1
    config.run.num_steps = config.optimizer.decay_steps = 4
    config.run.log_every = config.run.eval_every = config.run.hook_every = 2
    config.run.checkpoint_every = 2
    config.sampling.context_frames, config.sampling.stride = 1, None
    config.sampling.sampler.num_steps = 2
