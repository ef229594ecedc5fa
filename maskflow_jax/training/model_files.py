"""Trained models on disk: finding and loading them.

A model is found under a path or a name:

    a run               config.json and checkpoints/; the newest averaged weights are used
    an exported model   config.json and model.safetensors, as `export_model` writes them
    a shipped name      a folder of `maskflow_jax/models/pretrained`
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from absl import logging
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file

from maskflow_jax.config import Config
from maskflow_jax.io.files import sha256_of_arrays
from maskflow_jax.io.weights import check_finite, check_weights
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import model_builder
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.state import abstract_params
from maskflow_jax.training.workdir import read_workdir_config

PRETRAINED = Path(__file__).parents[1] / "models" / "pretrained"
WEIGHTS, CONFIG = "model.safetensors", "config.json"


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

    @property
    def shipped(self) -> bool:
        """Whether the model is one that ships with the package."""
        return self.directory.parent == PRETRAINED

    @property
    def name(self) -> str:
        """Name of a shipped model, or else the path of its folder."""
        return self.directory.name if self.shipped else str(self.directory)


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
