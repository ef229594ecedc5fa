"""Trained models: exporting them, and finding the tokenizer, encoder and dataset of one."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.flax import save_file

from maskflow_jax.config_files import to_dict
from maskflow_jax.data.dataset import TokenVideos, check_tokenizer, read_token_dataset
from maskflow_jax.generation.model_card import model_card
from maskflow_jax.generation.scenes import check_conditional
from maskflow_jax.io.files import atomic_folder, sha256_of_arrays, write_with
from maskflow_jax.scenes.encoders import Encoder, LabelEncoder, WordEncoder, check_encoder
from maskflow_jax.tokenizers.tokenizer import PRETRAINED as SHIPPED_TOKENIZERS
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.model_files import CONFIG, WEIGHTS, ModelFolder, TrainedModel
from maskflow_jax.training.state import parameter_count

CONTEXTS = "contexts.npz"


def export_model(
    model: TrainedModel,
    directory: str | Path,
    *,
    dtype: str = "bfloat16",
    contexts: Mapping[str, np.ndarray] | None = None,
    card: str = "",
) -> None:
    """Writes a model as a folder that `load_model` reads, on any machine.

    Args:
        model: The model.
        directory: Folder to write; it replaces one that is there.
        dtype: Type of the stored weights, "float32", "bfloat16" or "float16".
        contexts: Token videos for trying the model out: int [N, F, h, w] by split.
        card: Text of its model card; by default its settings, hashes and the command.

    Raises:
        ValueError: if the type is unknown.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}; choose float32, bfloat16 or float16")
    flat = nnx.traversals.flatten_mapping(model.params)
    arrays = {
        ".".join(map(str, path)): jnp.asarray(leaf, jnp.dtype(dtype)) for path, leaf in flat.items()
    }
    with atomic_folder(directory) as part:
        # A changed bit makes a wrong weight, not an unreadable file: loading compares this.
        metadata = {"step": str(model.step), "sha256": sha256_of_arrays(sorted(arrays.items()))}
        card = card or model_card(
            model.config,
            name=model.directory.resolve().name,
            num_parameters=parameter_count(model.params),
            step=model.step,
            dtype=dtype,
            digest=metadata["sha256"],
        )
        write_with(part / WEIGHTS, lambda path: save_file(arrays, path, metadata=metadata))
        (part / CONFIG).write_text(json.dumps(to_dict(model.config), indent=2) + "\n")
        (part / "card.md").write_text(card)
        if contexts:
            small = {name: tokens.astype(np.uint16) for name, tokens in contexts.items()}
            np.savez_compressed(part / CONTEXTS, **small)


def find_tokenizer(
    model: TrainedModel | ModelFolder, tokenizer: str | Path | None = None
) -> Tokenizer:
    """Loads the tokenizer of a model.

    It is looked for at the given place, or else where the config says: among the shipped ones, from
    here, from the folder of the model, and in the folder `tokenizer` beside the weights.

    Args:
        model: The model.
        tokenizer: Folder or shipped name.

    Raises:
        FileNotFoundError: if it is nowhere, naming the argument that says where it is.
        ValueError: if it is not the one that made the model's data.
    """
    place = model.config.data.tokenizer
    if tokenizer is None and not (SHIPPED_TOKENIZERS / place / "config.json").is_file():
        tokenizer = _first_found(model, place, "config.json")
    if tokenizer is None and (model.directory / "tokenizer" / "config.json").is_file():
        tokenizer = model.directory / "tokenizer"
    try:
        loaded = Tokenizer.load(place if tokenizer is None else tokenizer)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the tokenizer of {model.directory} is not found: {error}; pass its folder as the "
            "argument `tokenizer`"
        ) from error
    check_tokenizer(to_dict(model.config.tokenizer), loaded.identity, other_name="tokenizer")
    return loaded


def find_encoder(model: TrainedModel, encoder: str | Path | Encoder | None = None) -> Encoder:
    """Loads what encodes the captions of a model.

    Labels and words are in the model's config. A text encoder is looked for at the given place, or
    else where the config says (`scenes.encoder`).

    Args:
        model: The model.
        encoder: Folder of a text encoder, or an encoder.

    Raises:
        FileNotFoundError: if it is nowhere, naming the argument that says where it is.
        ImportError: if the package that it needs is missing.
        ValueError: if the model takes no captions, or another encoder made those of its training.
    """
    check_conditional(model.config)
    record = model.config.conditions
    if record.kind == "labels":
        return LabelEncoder(record.names)
    if record.kind == "words":
        return WordEncoder(record.names, record.length)
    if encoder is None or isinstance(encoder, str | Path):
        place = encoder or _first_found(model, model.config.scenes.encoder, "config.json")
        if place is None:
            raise FileNotFoundError(
                f"the text encoder of {model.directory}, {record.name!r}, is not here nor beside "
                "the model; pass its folder as the argument `text_encoder`"
            )
        from maskflow_jax.scenes.hugging_face import HuggingFaceEncoder

        encoder = HuggingFaceEncoder(place, length=record.length)
    check_encoder(encoder.record, record, other_name="trained model")
    return encoder


def find_dataset(
    model: TrainedModel | ModelFolder, split: str, dataset: str | Path | None = None
) -> TokenVideos:
    """Opens a split of a model's dataset, looked for like its tokenizer.

    Args:
        model: The model.
        split: Name of the split.
        dataset: Folder of the dataset, if it has moved.

    Raises:
        FileNotFoundError: if it is nowhere, naming the argument that says where it is.
        ValueError: if it is damaged, or another tokenizer made it.
    """
    place = dataset or _first_found(model, model.config.data.directory, "dataset_info.json")
    if place is None:
        raise FileNotFoundError(
            f"the dataset of {model.directory}, {model.config.data.directory!r}, is not here nor "
            "beside the model; pass its folder as the argument `dataset`, or give a context"
        )
    videos = read_token_dataset(place, split)
    check_tokenizer(videos.tokenizer, to_dict(model.config.tokenizer), other_name="trained model")
    return videos


def shipped_contexts(model: TrainedModel | ModelFolder, split: str) -> np.ndarray | None:
    """Returns the token videos that lie beside an exported model, int32 [N, F, h, w], or None."""
    path = model.directory / CONTEXTS
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            return arrays[split].astype(np.int32) if split in arrays else None
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}; copy the model again") from error


def _first_found(model: TrainedModel | ModelFolder, place: str, file: str) -> Path | None:
    """A path as it is, or relative to the model's folder or one of the folders above it."""
    if not place:
        return None
    own = model.directory.resolve()  # may have the name of its tokenizer
    for base in (Path(), own, *own.parents):
        if (base / place / file).is_file() and (base / place).resolve() != own:
            return base / place
    return None
