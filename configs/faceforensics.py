r"""FaceForensics as in the paper: Latte-XL/2 on 32x32 tokens of 256x256 frames, windows of 16.

    python -m launch.prepare_data --source=hdf5_tokens --input=faceforensics_train_indices.h5 \
        --source_fps=8 --tokenizer=tokenizers/vq_f8 --output=data/faceforensics --min_frames=16
    python -m launch.train --config=configs/faceforensics.py --workdir=runs/faceforensics
    python -m launch.sample --workdir=runs/faceforensics --length=160 \
        --context=all --random_windows --num_videos=0

`tokenizers/vq_f8` is the SD-VQGAN vq-f8 as a tokenizer of this project. The dataset comes from the
published token file or from videos; both carry the tokenizer's identity, which is checked.

Windows of k = 16 frames, m = 2 context frames, stride s = k - m = 14 (full sequence); the paper's
autoregressive rows need `--set=context_frames=15 --set=stride=1`. The paper samples all 704 videos,
each from a random window of its own. MGM passes the network time 0 for new
frames at every step, as Algorithm 4 does and as the MGM rows below were made.

Expected FVD, the paper's figures, not yet measured with this code; lower is better:

    sampler, stride       NFE              2x (32)   5x (80)   10x (160 frames)
    MGM 20, s = 14        60/120/240        59.93    108.74    214.39
    MGM 20, s = 1         340/1300/2900     30.43    103.69    165.02
    FM 250, s = 14        750/1500/3000     66.94    118.81    174.85
    Diffusion Forcing     798/1596/3192    144.43    272.14    306.31
    RDM                   788/1652/3092     72.49    248.13    451.38

The paper trains for 200,000 steps with a global batch of 16 (4 GPUs x 4), as here; the released
README's command says 400,000 steps of 4 x 2.

Arguments follow a colon, separated by commas: `constant`, `time_independent` and `isolated` change
training (`config_files.apply_arguments`), `smoke` is a few steps of a tiny model on the same data.
"""

import ml_collections

from maskflow_jax.config_files import apply_arguments, default_config


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings; the defaults are the paper's."""
    config = default_config()
    config.data.directory = "data/faceforensics"
    config.data.tokenizer = "tokenizers/vq_f8"
    config.data.source.fps = 8.0  # what the dataset must say of itself
    config.model.variant = "XL/2"
    config.model.dtype = "bfloat16"  # of the matrix products; the released command says fp16
    config.flow.frame_block = 2  # 34 MB of logits for each clip of the batch
    config.run.hook_every = 10_000
    return apply_arguments(config, arguments, smoke=smoke)


def smoke(config: ml_collections.ConfigDict) -> None:
    """A few steps of a tiny model: checks dataset, tokenizer and program before the long run."""
    config.data.clip_frames, config.data.batch_size = 4, 2
    config.model.variant = None
    config.model.depth, config.model.width, config.model.num_heads = 2, 32, 2
    config.run.num_steps = 4
    config.run.log_every = config.run.eval_every = config.run.hook_every = 2
    config.run.checkpoint_every = 2
    config.sampling.context_frames = 1
    config.sampling.sampler.num_steps = 2
