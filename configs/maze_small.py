"""Generated mazes, for comparisons: a network of 0.8 million parameters, trained in minutes.

    python -m launch.prepare_data --source=maze --output=data/maze --tokenizer=maze
    python -m launch.train --config=configs/maze_small.py --workdir=runs/maze_small

The networks of docs/results.md are made with it; arguments are those of configs/maze.py.
"""

import ml_collections

from configs import maze


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings."""
    config = maze.get_config(arguments)
    if "smoke" in arguments.split(","):
        return config
    config.data.clip_frames, config.data.batch_size = 8, 4
    config.model.depth, config.model.width, config.model.num_heads = 4, 96, 3
    config.run.num_steps = config.optimizer.decay_steps = 2_000
    config.run.checkpoint_every = config.run.eval_every = config.run.hook_every = 1_000
    config.sampling.context_frames, config.sampling.stride = 2, None
    config.sampling.sampler.num_steps = 20
    return config
