"""Trains the network behind `maze_fd` on rendered mazes and says how much it recognises.

    python -m launch.train_maze_features --out=features.safetensors

made the network that ships with the package. The labels come from the simulator; half of the
videos pass through `--tokenizer` first.
"""

from absl import flags, logging

from launch import cli
from launch.startup import start

_OUT = flags.DEFINE_string("out", None, "File to write, .safetensors.", required=True)
_TOKENIZER = flags.DEFINE_string("tokenizer", "maze", "Tokenizer of 64x64 frames.")
_TRAIN_VIDEOS = flags.DEFINE_integer("train_videos", 480, "Training videos.")
_TEST_VIDEOS = flags.DEFINE_integer("test_videos", 64, "Validation videos.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", 2400, "Training steps.")
_SEED = flags.DEFINE_integer("seed", 7, "Seed.")


def main(_) -> None:
    """Renders, trains, measures and saves."""
    start()
    from maskflow_jax.evaluation import maze_feature_training, maze_features
    from maskflow_jax.tokenizers.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(_TOKENIZER.value)
    settings = maze_feature_training.MazeFeatureTraining(
        train_videos=_TRAIN_VIDEOS.value,
        test_videos=_TEST_VIDEOS.value,
        num_steps=_NUM_STEPS.value,
        seed=_SEED.value,
    )

    def videos(split: str, **options):
        return maze_feature_training.render_labelled(
            settings, split, lambda frames: tokenizer.decode(tokenizer.encode(frames)), **options
        )

    network = maze_feature_training.train_maze_network(settings, videos("train"))
    maze_features.save_maze_network(network, _OUT.value)
    network = maze_features.load_maze_network(_OUT.value)
    for name, share in (("rendered", 0.0), ("decoded", 1.0)):
        found = maze_feature_training.maze_network_accuracy(network, videos("test", share=share))
        shares = (100 * found["motion"], 100 * found["colours"])
        logging.info("%s: %.2f %% of motions, %.2f %% of colours recognised", name, *shares)


if __name__ == "__main__":
    cli.run(main)
