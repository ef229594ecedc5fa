r"""DMLab as in the paper: Latte-B/2 on 32x32 tokens of 256x256 frames, windows of 36.

    python -m launch.import_hdf5 --file=dmlab_train_indices.h5 --fps=15 \
        --tokenizer=tokenizers/vq_f8 --directory=data/dmlab --min_frames=36
    python -m launch.train --config=configs/dmlab.py --workdir=runs/dmlab
    python -m launch.sample --workdir=runs/dmlab --length=180

`tokenizers/vq_f8` is the SD-VQ-f8 tokenizer as a tokenizer's directory. The dataset comes from the
published token file or from videos; both carry the tokenizer's identity, which is checked. The
frame rate decides how fast samples play, and how fast a video file is read as their context.

Windows of k = 36 frames, m = 12 of context, stride s = k - m = 24 (full sequence); for the paper's
autoregressive rows, `launch.sample --context_frames=35 --stride=1`.

Expected FVD, the paper's figures, not yet measured with this code; lower is better:

    sampler, stride       NFE        2x (72)   5x (180 frames)
    MGM 20, s = 24        60/140     195.84    334.15
    MGM 20, s = 1         740/2900    42.53     80.56

    one window (36 frames): constant masking with FM 53.31, frame-level masking with FM 55.19 and
    with MGM 53.17, Diffusion Forcing 60.30, RDM 52.43

Steps and batch are those of the released README's command, 400,000 steps of 4 GPUs x 3.

Arguments follow a colon, separated by commas: `constant` is the constant-masking baseline,
`time_independent` a network that is not told the time, `isolated` one whose clean frames attend to
clean frames only, which makes `context_cache` exact, `smoke` a few steps of a tiny model on the
same dataset.
"""

import ml_collections
from ml_collections import config_dict

ARGUMENTS = ("constant", "isolated", "smoke", "time_independent")


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
    config.data.directory = "data/dmlab"
    config.data.tokenizer = "tokenizers/vq_f8"
    config.data.clip_frames = 36
    config.data.batch_size = 12  # over all devices
    config.data.num_workers = 0
    config.data.source = {"fps": 15.0}  # what the imported dataset must say of itself

    config.model = ml_collections.ConfigDict()
    config.model.variant = "B/2"
    config.model.time_conditioning = "time_independent" not in chosen
    config.model.dtype = "bfloat16"  # of the matrix products; the released command says fp16
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
    config.flow.weighting = "snr"
    config.flow.snr = {"fused": True, "decay": 0.8, "clip": 6.0, "form": "released"}
    config.flow.mask_ce = True
    config.flow.frame_block = 2  # 34 MB of logits for each clip of the batch

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 0
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 2.0
    config.optimizer.ema_decay = 0.9999
    config.optimizer.ema_warmup = False
    config.optimizer.micro_batches = 1

    config.run = ml_collections.ConfigDict()
    config.run.num_steps = 400_000
    config.run.log_every = 100
    config.run.eval_every = 5_000
    config.run.checkpoint_every = 5_000
    config.run.hook_every = 10_000
    config.run.keep_checkpoints = 2

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}

    config.sampling = ml_collections.ConfigDict()
    config.sampling.context_frames = 12  # and so the stride is 24, unless launch.sample is told one
    config.sampling.sampler = _sampler()

    if "smoke" in chosen:
        _smoke(config)
    return config


def _sampler() -> dict:
    """Settings of `SamplerConfig`, the paper's."""
    return {
        "name": "mgm",
        "num_steps": 20,
        "temperature": 1.0,
        "top_k": config_dict.placeholder(int),
        "top_p": config_dict.placeholder(float),
        "counts": "arccos",
        "noise": "none",  # Algorithm 4: the most confident, without noise
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
        "frame_block": 1,
    }


def _smoke(config: ml_collections.ConfigDict) -> None:
    """A few steps of a tiny model: checks dataset, tokenizer and program before the long run."""
    config.data.clip_frames = 4
    config.data.batch_size = 2
    del config.model.variant
    config.model.depth = 2
    config.model.width = 32
    config.model.num_heads = 2
    config.model.patch_size = 2
    config.run.num_steps = 4
    config.run.log_every = config.run.eval_every = config.run.hook_every = 2
    config.run.checkpoint_every = 2
    config.sampling.context_frames = 1
    config.sampling.sampler.num_steps = 2
