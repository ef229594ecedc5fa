r"""DMLab as in the paper: Latte-B/2 on 32x32 tokens of 256x256 frames, windows of 36.

    python -m launch.prepare_data --source=hdf5_tokens --input=dmlab_train_indices.h5 \
        --source_fps=15 --tokenizer=tokenizers/vq_f8 --output=data/dmlab --min_frames=36
    python -m launch.train --config=configs/dmlab.py --workdir=runs/dmlab
    python -m launch.sample --workdir=runs/dmlab --length=180 \
        --context=all --random_windows --num_videos=0

Everything else is as for FaceForensics (`configs/faceforensics.py`). The frame rate decides how
fast samples play, and how fast a video file is read as their context.

Windows of k = 36 frames, m = 12 context frames, stride s = k - m = 24 (full sequence); the paper's
autoregressive rows need `--set=context_frames=35 --set=stride=1`.

Expected FVD, the paper's figures, not yet measured with this code; lower is better:

    sampler, stride                       NFE        2x (72)   5x (180 frames)
    MGM 20, s = 24                        60/140     188.22    334.15
    MGM 20, s = 1                         740/2900    50.87    181.11
    model without time, MGM 20, s = 24    60/140     219.33    402.73
    model without time, MGM 20, s = 1     740/2900    42.53     80.56

    one window (36 frames): constant masking with FM 53.31, frame-level masking with FM 55.19 and
    with MGM 53.17, Diffusion Forcing 60.30, RDM 52.43

The model without time is `configs/dmlab.py:time_independent`; the paper's Table 2 prints its s = 1
figures. Steps and batch are those of the released README's command, 400,000 steps of 4 GPUs x 3.
"""

import ml_collections

from configs import faceforensics
from maskflow_jax.config_files import apply_arguments


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings that differ from those for FaceForensics."""
    config = faceforensics.get_config()
    config.data.directory = "data/dmlab"
    config.data.clip_frames, config.data.batch_size = 36, 12
    config.data.source.fps = 15.0
    config.model.variant = "B/2"
    config.run.num_steps = 400_000
    config.sampling.context_frames = 12
    return apply_arguments(config, arguments, smoke=faceforensics.smoke)
