r"""Your own videos with captions: Latte-B/2 on 32x32 tokens, windows of 3 scenes of 16 frames.

    python -m launch.prepare_data --input=my_videos --captions=my_videos.jsonl \
        --output=data/scenes_videos --tokenizer=tokenizers/vq_f8 --fps=8 --min_frames=48
    python -m launch.encode_captions --dataset=data/scenes_videos --encoder=encoders/t5
    python -m launch.train --config=configs/scenes_videos.py:unrelated --workdir=runs/scenes_videos
    python -m launch.train --config=configs/scenes_videos.py --workdir=runs/scenes_videos \
        --config.run.num_steps=300000

The first command for training puts scenes of different videos together, the second goes on with
consecutive scenes of one video and clean context, in the same folder: the two stages of Mask^2DiT.
A single stage of consecutive scenes is

    python -m launch.train --config=configs/scenes_videos.py --workdir=runs/scenes_videos

Everything but the model's size, the windows and the captions is as for FaceForensics. This is not a
published experiment: there is no result to expect.
"""

import ml_collections

from configs import faceforensics
from maskflow_jax.config_files import apply_arguments


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the settings that differ from those for FaceForensics."""
    config = faceforensics.get_config()
    config.data.directory = "data/scenes_videos"
    config.data.source = ml_collections.ConfigDict()  # whatever the dataset was made from
    config.data.clip_frames = 48
    config.data.batch_size = 4
    config.model.variant = "B/2"
    config.scenes.condition = "captions"
    config.scenes.num_scenes = 3
    config.scenes.encoder = "encoders/t5"
    config.scenes.text_update = True
    config.sampling.context_frames = 32
    return apply_arguments(config, arguments, unrelated=_unrelated, smoke=_smoke)


def _unrelated(config: ml_collections.ConfigDict) -> None:
    config.scenes.windows = "unrelated"
    config.scenes.context_probability = 0.0


def _smoke(config: ml_collections.ConfigDict) -> None:
    faceforensics.smoke(config)
    config.data.clip_frames = 6
    config.sampling.context_frames = 4
