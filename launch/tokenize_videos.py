"""Turns the videos of an experiment's source into its dataset of tokens.

    python -m launch.tokenize_videos --config=configs/maze.py

reads `config.data`: the source and its settings, the tokenizer, and the directory to write.
"""

from absl import app, flags, logging
from ml_collections import config_flags

from launch.startup import start
from launch.tokenizing import write_dataset
from maskflow_jax.tokenizers.tokenizer import DTYPES

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
_MEMORY_GB = flags.DEFINE_float("memory_gb", None, "Of each device for frames; 4 by default.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", DTYPES, "What the tokenizer computes in.")
flags.mark_flag_as_required("config")


def main(_) -> None:
    """Writes the dataset."""
    start()
    data = _CONFIG.value.data.to_dict()
    write_dataset(data, overwrite=_OVERWRITE.value, memory_gb=_MEMORY_GB.value, dtype=_DTYPE.value)
    logging.info("wrote %s", data["directory"])


if __name__ == "__main__":
    app.run(main)
