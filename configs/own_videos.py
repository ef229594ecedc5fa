r"""Your own videos: Latte-B/2 on 32x32 tokens of 256x256 frames, windows of 16.

    python -m launch.prepare_data --input=my_videos --output=data/own_videos \
        --tokenizer=tokenizers/vq_f8 --fps=8
    python -m launch.train --config=configs/own_videos.py --workdir=runs/own_videos
    python -m launch.sample --workdir=runs/own_videos --length=80

Everything but the size of the model is as for FaceForensics (`configs/faceforensics.py`), with the
same arguments. This is not a published experiment: there is no result to expect. Any tokenizer
will do; with another one, set `--config.data.tokenizer`.
"""

import ml_collections

from configs import faceforensics
from maskflow_jax.config_files import apply_arguments


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings that differ from those for FaceForensics."""
    config = faceforensics.get_config()
    config.data.directory = "data/own_videos"
    config.data.source = ml_collections.ConfigDict()  # whatever the dataset was made from
    config.model.variant = "B/2"
    return apply_arguments(config, arguments, smoke=faceforensics.smoke)
