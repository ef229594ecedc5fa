"""Generated mazes: 64x64 frames at 10 per second, 8x8 tokens of 512 codes, clips of 16 frames.

    python -m launch.tokenize_videos --config=configs/maze.py
    python -m launch.train --config=configs/maze.py --workdir=runs/maze

This is the recipe of the model that ships under the name "maze": 2.0 million parameters, made for
two processor cores; its folder holds its figures (card.md). Arguments follow a colon, separated by
commas: `configs/maze.py:smoke` trains for seconds, `configs/maze.py:constant` is the
constant-masking baseline, `time_independent` a network that does not know the time, `isolated`
one whose clean frames attend to clean frames only, which makes `context_cache` exact; `demo` and
`demo_smoke` are what `launch.demo` trains. `data.source` takes the fields of `MazeSettings`;
docs/maze.md describes the mazes.
"""

import ml_collections
from ml_collections import config_dict

ARGUMENTS = ("constant", "demo", "demo_smoke", "isolated", "smoke", "time_independent")


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """The settings; `arguments` is any of `ARGUMENTS`, separated by commas."""
    chosen = set(filter(None, arguments.split(",")))
    if unknown := chosen - set(ARGUMENTS):
        raise ValueError(f"unknown arguments {sorted(unknown)}; choose from {', '.join(ARGUMENTS)}")
    if {"constant", "isolated"} <= chosen:
        raise ValueError("constant masking has no clean frames to isolate; choose one of the two")
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = ml_collections.ConfigDict()
    config.data.directory = "data/maze"
    config.data.tokenizer = "maze"
    config.data.clip_frames = 16
    config.data.batch_size = 2  # many small steps: two clips hold 2,048 tokens
    config.data.num_workers = 0
    config.data.source = ml_collections.ConfigDict()
    config.data.source.name = "maze"
    config.data.source.num_videos = {"train": 600, "test": 32}
    config.data.source.num_frames = 240
    config.data.source.fps = 10.0
    config.data.source.seed = 1  # not the tokenizer's videos
    config.data.source.textures = "checker"

    config.model = ml_collections.ConfigDict()
    config.model.variant = config_dict.placeholder(str)  # such as "B/2"; decides the next four
    config.model.depth = 6
    config.model.width = 128
    config.model.num_heads = 4
    config.model.patch_size = 1
    config.model.time_conditioning = "time_independent" not in chosen
    config.model.dtype = "float32"
    config.model.remat = "dots"
    config.model.attention = "auto"
    config.model.isolated_context = "isolated" in chosen

    config.flow = ml_collections.ConfigDict()
    config.flow.schedule = "sigmoid"
    config.flow.sigmoid = {"start": -3.0, "end": 3.0, "tau": 1.0}
    config.flow.frame_times = "frame"
    for argument, times in (("constant", "constant"), ("isolated", "frame_clean")):
        if argument in chosen:
            config.flow.frame_times = times
    config.flow.weighting = "none"
    config.flow.snr = {"fused": True, "decay": 0.8, "clip": 6.0, "form": "released"}
    config.flow.mask_ce = True
    config.flow.frame_block = 4

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 14_000  # as long as the run
    config.optimizer.final_learning_rate_fraction = 0.02
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.99
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 2.0
    config.optimizer.ema_decay = 0.998
    config.optimizer.ema_warmup = True
    config.optimizer.micro_batches = 1

    config.run = ml_collections.ConfigDict()
    config.run.num_steps = 14_000
    config.run.log_every = 100
    config.run.eval_every = 1_000
    config.run.checkpoint_every = 1_000
    config.run.hook_every = 5_000
    config.run.keep_checkpoints = 2

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}

    config.sampling = ml_collections.ConfigDict()
    config.sampling.context_frames = 4
    config.sampling.sampler = _sampler()

    for name, shrink in (("demo", _demo), ("demo_smoke", _demo_smoke), ("smoke", _smoke)):
        if name in chosen:
            shrink(config)
    return config


def _sampler() -> dict:
    """Settings of `SamplerConfig`."""
    return {
        "name": "mgm",
        "num_steps": config_dict.placeholder(int),  # the paper's number
        "temperature": 1.0,
        "top_k": config_dict.placeholder(int),
        "top_p": config_dict.placeholder(float),
        "counts": "arccos",
        "noise": "random",  # the most confident first drifts to corridors of one colour
        "noise_scale": 4.5,
        "transition": "exact",
        "remask": "rescale",
        "remask_strength": 0.05,
        "context_time": 1.0,
        "independent_time": config_dict.placeholder(float),  # the frames' actual times
        "guidance_weight": 0.0,
        "guidance_time": config_dict.placeholder(float),  # the paper's number
        "guidance_steps": config_dict.placeholder(int),  # all
        "context_cache": False,
        "frame_block": 4,
    }


def _demo(config: ml_collections.ConfigDict) -> None:
    """A model for two cores and five minutes: shorter clips, and fewer mazes."""
    config.data.directory = "data/maze_demo"
    config.data.clip_frames = 8
    config.data.batch_size = 4
    config.data.source.num_videos = {"train": 120, "test": 10}
    config.data.source.num_frames = 100
    config.optimizer.warmup_steps = 50
    config.optimizer.ema_decay = 0.99
    config.run.num_steps = config.optimizer.decay_steps = 800
    config.run.log_every = 20
    config.run.eval_every = config.run.checkpoint_every = 400
    config.run.hook_every = config.run.num_steps
    config.sampling.context_frames = 2


def _demo_smoke(config: ml_collections.ConfigDict) -> None:
    """The demo's path in seconds."""
    _demo(config)
    config.data.source.num_videos = {"train": 8, "test": 3}
    config.data.source.num_frames = 80
    config.model.depth = 2
    config.model.width = 64
    config.optimizer.warmup_steps = 5
    config.run.num_steps = config.optimizer.decay_steps = 30
    config.run.log_every = 10
    config.run.eval_every = config.run.checkpoint_every = config.run.hook_every = 30
    config.sampling.sampler.num_steps = 4


def _smoke(config: ml_collections.ConfigDict) -> None:
    """A few steps of a tiny model on a tiny dataset of its own."""
    config.data.directory = "data/maze_smoke"
    config.data.clip_frames = 4
    config.data.batch_size = 8
    config.data.source.num_videos = {"train": 8, "test": 2}
    config.data.source.num_frames = 12
    config.model.depth = 2
    config.model.width = 32
    config.model.num_heads = 2
    config.optimizer.warmup_steps = 1
    config.run.num_steps = config.optimizer.decay_steps = 4
    config.run.log_every = config.run.eval_every = config.run.hook_every = 2
    config.run.checkpoint_every = 2
    config.sampling.context_frames = 1
    config.sampling.sampler.num_steps = 2
