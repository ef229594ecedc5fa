r"""FaceForensics as in the paper: Latte-XL/2 on 32x32 tokens of 256x256 frames, windows of 16.

    python -m launch.import_hdf5 --file=faceforensics_train_indices.h5 --fps=8 \
        --tokenizer=tokenizers/vq_f8 --directory=data/faceforensics --min_frames=16
    python -m launch.train --config=configs/faceforensics.py --workdir=runs/faceforensics
    python -m launch.sample --workdir=runs/faceforensics --length=160

`tokenizers/vq_f8` is the SD-VQ-f8 tokenizer as a tokenizer's directory. The dataset comes from the
published token file or from videos; both carry the tokenizer's identity, which is checked.

Windows of k = 16 frames, m = 2 of context, stride s = k - m = 14 (full sequence); for the paper's
autoregressive rows, `launch.sample --context_frames=15 --stride=1`.

Expected FVD, the paper's figures, not yet measured with this code; lower is better:

    sampler, stride       NFE              2x (32)   5x (80)   10x (160 frames)
    MGM 20, s = 14        60/120/240        59.93    108.74    214.39
    MGM 20, s = 1         340/1300/2900     30.43    103.69    165.02
    FM 250, s = 14        750/1500/3000     66.94    118.81    174.85
    Diffusion Forcing     798/1596/3192    144.43    272.14    306.31
    RDM                   788/1652/3092     72.49    248.13    451.38

The paper trains for 200,000 steps with a global batch of 16 (4 GPUs x 4), as here; the released
README's command says 400,000 steps of 4 x 2.

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
    config.data.directory = "data/faceforensics"
    config.data.tokenizer = "tokenizers/vq_f8"
    config.data.clip_frames = 16
    config.data.batch_size = 16  # over all devices
    config.data.num_workers = 0
    config.data.source = {"fps": 8.0}  # what the imported dataset must say of itself

    config.model = ml_collections.ConfigDict()
    config.model.variant = "XL/2"
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
    config.run.num_steps = 200_000
    config.run.log_every = 100
    config.run.eval_every = 5_000
    config.run.checkpoint_every = 5_000
    config.run.hook_every = 10_000
    config.run.keep_checkpoints = 2

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}

    config.sampling = ml_collections.ConfigDict()
    config.sampling.context_frames = 2  # and so the stride is 14, unless launch.sample is told one
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
