"""The tokenizer of the generated mazes: 64x64 frames to 8x8 tokens of 512 codes.

    python -m launch.train_tokenizer --config=configs/maze_tokenizer.py --workdir=runs/tokenizer

Made the tokenizer that ships with the package under the name "maze", in about ten minutes on two
processor cores; its folder holds its figures (card.md). `configs/maze_tokenizer.py:128` is the same
for frames of 128x128 and 16x16 tokens, `:smoke` a run of seconds.
"""

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """The settings of a mode: "", "128" or "smoke"."""
    if mode not in ("", "128", "smoke"):
        raise ValueError(f"unknown mode {mode!r}; the config knows '', '128' and 'smoke'")
    config = ml_collections.ConfigDict()
    config.kind = "patch_vq"
    # Fields of `MazeSettings`, beside the number of videos in each split.
    config.source = {"num_frames": 96, "seed": 0}
    config.frame_stride = 4  # neighbouring frames teach little
    config.num_train_videos = 600
    config.num_test_videos = 40

    config.model = ml_collections.ConfigDict()
    config.model.frame_size = 128 if mode == "128" else 64
    config.model.patch_size = 8
    config.model.codebook_size = 512
    config.model.width = 192
    config.model.num_blocks = 4
    config.model.head_width = 512

    config.training = ml_collections.ConfigDict()
    config.training.num_steps = 5_000
    config.training.batch_size = 8 if mode == "128" else 32
    config.training.learning_rate = 2e-3
    config.training.kmeans_patches = 200_000
    config.training.kmeans_iterations = 30
    config.training.seed = 0
    config.training.save_every = 500

    if mode == "smoke":
        config.source.num_frames = 24
        config.num_train_videos = config.num_test_videos = 2
        config.model.codebook_size = 32
        config.model.width = config.model.head_width = 32
        config.model.num_blocks = 1
        config.training.num_steps = 6
        config.training.batch_size = 4
        config.training.kmeans_patches = 500
        config.training.kmeans_iterations = 4
        config.training.save_every = 3
    return config
