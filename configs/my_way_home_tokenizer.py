r"""The tokenizer of `my_way_home`: 64x64 frames to 8x8 tokens of 1,024 codes.

    python -m launch.train_tokenizer --config=configs/my_way_home_tokenizer.py \
        --workdir=runs/my_way_home_tokenizer

Made the tokenizer that ships with the package under the name "my_way_home".
"""

import ml_collections


def get_config(mode: str = "") -> ml_collections.ConfigDict:
    """The settings; `mode` "smoke" is a run of seconds that only shows that everything works."""
    config = ml_collections.ConfigDict()
    config.data = ml_collections.ConfigDict()
    config.data.num_train_videos = 300
    config.data.num_test_videos = 40
    config.data.num_frames = 100
    config.data.fps = 10.0
    config.data.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.frame_size = 64
    config.model.base_width = 8
    config.model.width_multipliers = (1, 2, 4, 8)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.z_channels = 8
    config.model.embed_dim = 8
    config.model.codebook_size = 1024
    config.model.norm_groups = 4

    config.training = ml_collections.ConfigDict()
    config.training.num_steps = 16_000
    config.training.warm_up_steps = 1_000
    config.training.learning_rate = 2e-3
    config.training.commitment = 0.25
    config.training.code_decay = 0.99
    config.training.dead_below = 0.02
    config.training.kmeans_iterations = 20
    config.training.batch_size = 8
    config.training.seed = 0
    config.training.save_every = 1_000

    if mode == "smoke":
        config.data.num_train_videos = config.data.num_test_videos = 2
        config.data.num_frames = 24
        config.model.codebook_size = 64
        config.training.num_steps = 12
        config.training.warm_up_steps = 4
        config.training.save_every = 12
    elif mode:
        raise ValueError(f"unknown mode {mode!r}; the config knows '' and 'smoke'")
    return config
