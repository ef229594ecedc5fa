r"""Imports published token files (HDF5) as a dataset of tokens.

    python -m launch.import_hdf5 --file=faceforensics_train_indices.h5 --fps=8 \
        --tokenizer=tokenizers/vq_f8 --directory=data/faceforensics --min_frames=16

Needs h5py (`pip install ".[hdf5]"`). Every video is checked before anything is written.
"""

from absl import app, flags, logging

from launch.startup import start
from maskflow_jax.data.sources import hdf5_tokens
from maskflow_jax.tokenizers.tokenizer import Tokenizer

_FILE = flags.DEFINE_string("file", None, "HDF5 file.", required=True)
_DIRECTORY = flags.DEFINE_string("directory", None, "Dataset to write.", required=True)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "The tokenizer that made the tokens; its identity is recorded.",
    required=True,
)
_FPS = flags.DEFINE_float("fps", None, "Frames per second of the videos.", required=True)
_TEST_FILE = flags.DEFINE_string("test_file", None, "HDF5 file of the held-out videos.")
_TEST_FRACTION = flags.DEFINE_float(
    "test_fraction", 0.05, "Share of the videos to hold out where there is no --test_file."
)
_END = flags.DEFINE_enum(
    "end", None, hdf5_tokens.ENDS, "Whether a range's end is its last frame; told by the file."
)
_MIN_FRAMES = flags.DEFINE_integer("min_frames", 1, "Shortest video; the training window.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")


def main(_) -> None:
    """Writes the dataset."""
    start()
    counts = hdf5_tokens.import_token_files(
        _FILE.value,
        _DIRECTORY.value,
        tokenizer=Tokenizer.load(_TOKENIZER.value).identity,
        fps=_FPS.value,
        test_file=_TEST_FILE.value,
        test_fraction=_TEST_FRACTION.value,
        end=_END.value,
        min_frames=_MIN_FRAMES.value,
        overwrite=_OVERWRITE.value,
    )
    logging.info("wrote %d train and %d test videos to %s", *counts.values(), _DIRECTORY.value)


if __name__ == "__main__":
    app.run(main)
