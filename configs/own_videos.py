r"""Your own videos: Latte-B/2 on 32x32 tokens of 256x256 frames, windows of 16.

    python -m launch.prepare_data --input=my_videos --output=data/own_videos \
        --tokenizer=tokenizers/vq_f8 --fps=8
    python -m launch.train --config=configs/own_videos.py --workdir=runs/own_videos
    python -m launch.sample --workdir=runs/own_videos --length=80

Everything but the size of the model is as for FaceForensics. Not a published experiment: there is
no result to expect. Any tokenizer will do; with another one, set `--config.data.tokenizer`.

Arguments follow a colon, separated by commas: `constant` is the constant-masking baseline,
`time_independent` a network that is not told the time, `isolated` one whose clean frames attend to
clean frames only, which makes `context_cache` exact, `smoke` a few steps of a tiny model on the
same dataset.
"""

import ml_collections

from configs import faceforensics

ARGUMENTS = faceforensics.ARGUMENTS


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """The settings; `arguments` is any of `ARGUMENTS`, separated by commas."""
    config = faceforensics.get_config(arguments)
    config.data.directory = "data/own_videos"
    config.data.source = ml_collections.ConfigDict()  # whatever the dataset was made from
    if "smoke" not in arguments.split(","):
        config.model.variant = "B/2"
    return config
