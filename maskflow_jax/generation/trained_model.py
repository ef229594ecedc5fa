"""Trained models: loading them from runs and folders, and exporting them.

A model is found under a path or a name:

    a run               config.json and checkpoints/; the newest averaged weights are used
    an exported model   config.json and model.safetensors, as `export_model` writes them
    a shipped name      a folder of `maskflow_jax/models/pretrained`
"""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from maskflow_jax.config import Config
from maskflow_jax.config_files import to_dict
from maskflow_jax.data.dataset import TokenVideos, check_tokenizer, read_token_dataset
from maskflow_jax.generation.model_card import model_card
from maskflow_jax.generation.scenes import check_conditional
from maskflow_jax.io.files import atomic_folder, sha256_of_arrays, write_with
from maskflow_jax.io.weights import check_finite, check_weights
from maskflow_jax.parallel import sharding
from maskflow_jax.scenes.encoders import Encoder, LabelEncoder, WordEncoder, check_encoder
from maskflow_jax.tokenizers.tokenizer import PRETRAINED as SHIPPED_TOKENIZERS
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.state import abstract_params, parameter_count
from maskflow_jax.training.workdir import read_workdir_config

PRETRAINED = Path(__file__).parents[1] / "models" / "pretrained"
WEIGHTS, CONFIG, CONTEXTS = "model.safetensors", "config.json", "contexts.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network with its averaged parameters.

    Attributes:
        config: Config of its run.
        graphdef: Graph definition of the network.
        params: Averaged parameters.
        step: Number of optimizer steps that they have seen.
        directory: Folder that it was loaded from.
    """

    config: Config
    graphdef: nnx.GraphDef
    params: dict
    step: int
    directory: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model of which no weight is read: enough to find its tokenizer and its dataset.

    Attributes:
        config: Config of its run.
        directory: Its folder.
    """

    config: Config
    directory: Path


def open_model(path: str | Path) -> ModelFolder:
    """Finds a model and reads its config.

    Args:
        path: A run, an exported model or the name of a shipped one.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if the config is damaged or has another format.
    """
    directory = Path(path)
    if not directory.is_dir():
        directory = PRETRAINED / str(path)
    if not (directory / CONFIG).is_file():
        shipped = sorted(folder.parent.name for folder in PRETRAINED.glob(f"*/{CONFIG}"))
        raise FileNotFoundError(
            f"no model at {str(path)!r}: expected the folder of a run or of an exported model, or "
            f"one of the shipped names: {', '.join(shipped) or 'none in this version'}"
        )
    return ModelFolder(config=read_workdir_config(directory), directory=directory)


def load_model(path: str | Path, mesh: jax.sharding.Mesh | None = None) -> TrainedModel:
    """Loads a model.

    Args:
        path: A run, an exported model or the name of a shipped one.
        mesh: Where the weights are placed; all devices of all processes by default.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if the config or the weights are damaged or have another format.
        CheckpointError: if a run has no checkpoint that can be read.
    """
    found = open_model(path)
    directory, config = found.directory, _for_these_devices(found.config)
    build = model_builder(config)
    abstract = abstract_params(build, mesh or sharding.make_mesh())
    if (directory / WEIGHTS).is_file():
        step, params = _read_weights(directory / WEIGHTS, abstract)
    else:
        checkpoints = Checkpoints(directory)
        step, params = checkpoints.restore_ema_params(abstract)
        checkpoints.close()
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return TrainedModel(
        config=config, graphdef=graphdef, params=params, step=step, directory=directory
    )


def _for_these_devices(config: Config) -> Config:
    """The config with an attention kernel that exists here; the kernel is no part of a model."""
    if config.model.attention != "cudnn" or jax.default_backend() == "gpu":
        return config
    logging.warning("the model was trained with cuDNN's attention, which needs a GPU: using XLA's")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, attention="xla"))


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


def _read_weights(path: Path, abstract: dict) -> tuple[int, dict]:
    """Step and parameters of an exported model, in float32 and placed as the abstract ones are."""
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; copy the model again") from error
    header = _header(path)
    found = sha256_of_arrays(sorted(arrays.items()))
    if header.get("sha256", found) != found:
        raise ValueError(
            f"the weights in {path} changed since they were exported; copy the model again"
        )
    flat = nnx.traversals.flatten_mapping(abstract)
    names = {place: ".".join(map(str, place)) for place in flat}
    check_weights(
        {name: array.shape for name, array in arrays.items()},
        {names[place]: leaf.shape for place, leaf in flat.items()},
        f"{path} does not fit the model's config:",
    )
    check_finite({name: np.asarray(a, np.float32) for name, a in arrays.items()}, str(path))
    params = {
        place: jax.device_put(np.asarray(arrays[names[place]], np.float32), leaf.sharding)
        for place, leaf in flat.items()
    }
    return int(header.get("step", 0)), nnx.traversals.unflatten_mapping(params)


def _header(path: Path) -> dict[str, str]:
    """What a safetensors file says about its tensors."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {})
