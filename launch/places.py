"""The flags that say where the dataset and the tokenizer of a model have moved."""

from typing import Any

from absl import flags

_DATASET = flags.DEFINE_string("dataset", None, "Dataset folder, if it has moved.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer, if it has moved.")


def moved() -> dict[str, str | None]:
    """Returns the folders by the names of the library's arguments, None where nothing moved."""
    return {"dataset": _DATASET.value, "tokenizer": _TOKENIZER.value}


def load(path: str, **options: Any) -> Any:
    """Returns the `VideoGenerator` of a path or name; options are those of its `load`."""
    import maskflow_jax as mf

    return mf.VideoGenerator.load(path, **moved(), **options)
