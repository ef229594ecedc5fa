"""Video to tokens and back, in fixed-size batches of frames, behind one small interface.

A codec is a directory with `config.json` (the shape of the autoencoder) and `model.safetensors`
(its weights). The SHA-256 of the two is its identity: datasets and training runs record it, so that
tokens are never decoded by a tokenizer that did not make them. The conversion between uint8 pixels
and the network's [-1, 1] lives here and nowhere else.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig

PRETRAINED = Path(__file__).parent / "pretrained"


def to_unit_range(frames: jax.Array | np.ndarray) -> jax.Array:
    """Maps uint8 pixels to float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float pixels, clipped to [-1, 1], to uint8, rounding to nearest."""
    return jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5).astype(jnp.uint8)


class Codec:
    """Encodes frames to tokens and decodes tokens to frames.

    Attributes:
        identity: what datasets and runs record and compare: `name`, `sha256`, `codebook_size`,
            `grid` (tokens along the two sides of a frame) and `frame_size` in pixels.
        batch_size: frames handled by one call of the network; the last batch is padded, so the
            network is compiled once.
    """

    def __init__(
        self, config: VQGANConfig, params: dict, *, name: str, sha256: str, batch_size: int = 64
    ):
        self.config = config
        self.batch_size = batch_size
        self.identity = {
            "name": name,
            "sha256": sha256,
            "codebook_size": config.codebook_size,
            "grid": [config.grid_size, config.grid_size],
            "frame_size": config.frame_size,
        }
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: VQGAN(config, nnx.Rngs(0))))
        self._params = jax.device_put(params)

        @jax.jit
        def encode(params, frames):
            model = nnx.merge(graphdef, params)
            return model.nearest_code(model.encode(to_unit_range(frames)))

        @jax.jit
        def decode(params, tokens):
            return to_uint8(nnx.merge(graphdef, params).decode_tokens(tokens))

        self._encode, self._decode = encode, decode

    @classmethod
    def load(cls, path: str | Path, **kwargs) -> "Codec":
        """Loads a codec from a directory, or from a name shipped with the package.

        Args:
            path: a directory with `config.json` and `model.safetensors`, or a name such as "maze".
            **kwargs: passed on to the constructor.

        Raises:
            FileNotFoundError: if neither a directory nor a shipped codec of that name exists.
            ValueError: if the weights are damaged or do not fit the config, every mismatch named.
        """
        directory = Path(path)
        if not directory.is_dir():
            directory = PRETRAINED / str(path)
        weights, settings = directory / "model.safetensors", directory / "config.json"
        if not (weights.is_file() and settings.is_file()):
            shipped = ", ".join(sorted(p.name for p in PRETRAINED.glob("*") if p.is_dir()))
            raise FileNotFoundError(
                f"no tokenizer at {path!s}: expected a directory with config.json and "
                f"model.safetensors, or one of the shipped names: {shipped}"
            )
        digest = hashlib.sha256(settings.read_bytes() + weights.read_bytes()).hexdigest()
        try:
            config = VQGANConfig(**json.loads(settings.read_text()))
            flat = load_file(weights)
        except (SafetensorError, json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"the tokenizer at {directory} cannot be read: {error}") from error
        params = unflatten_parameters(flat, config, source=str(weights))
        return cls(config, params, name=directory.name, sha256=digest, **kwargs)

    @property
    def codebook(self) -> np.ndarray:
        """The code vectors, float32 [K, C]."""
        return np.asarray(self._params["codebook"])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Encodes frames.

        Args:
            frames: uint8 [F, S, S, 3] with S the codec's frame size.

        Returns:
            Tokens int32 [F, h, w].

        Raises:
            ValueError: if the frames have another size or type.
        """
        side = self.config.frame_size
        if frames.dtype != np.uint8 or frames.shape[1:] != (side, side, 3):
            raise ValueError(
                f"tokenizer {self.identity['name']} takes uint8 frames [F, {side}, {side}, 3], got "
                f"{frames.dtype} {list(frames.shape)}; crop and resize the video first"
            )
        return self._in_batches(self._encode, frames)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Decodes tokens.

        Args:
            tokens: integers [F, h, w] in [0, codebook_size).

        Returns:
            Frames uint8 [F, S, S, 3].

        Raises:
            ValueError: if the grid differs or a value is no codebook index (a mask token, say).
        """
        tokens, codebook_size = np.asarray(tokens), self.config.codebook_size
        if list(tokens.shape[1:]) != self.identity["grid"]:
            raise ValueError(
                f"tokenizer {self.identity['name']} decodes grids of {self.identity['grid']} "
                f"tokens, got {list(tokens.shape)}"
            )
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < codebook_size):
            raise ValueError(
                f"tokens span [{tokens.min()}, {tokens.max()}] but the codebook has entries 0 to "
                f"{codebook_size - 1}; a mask token ({codebook_size}) must be sampled, not decoded"
            )
        return self._in_batches(self._decode, tokens.astype(np.int32))

    def _in_batches(self, function, items: np.ndarray) -> np.ndarray:
        outputs = []
        for start in range(0, max(len(items), 1), self.batch_size):
            batch = items[start : start + self.batch_size]
            padding = [(0, self.batch_size - len(batch))] + [(0, 0)] * (items.ndim - 1)
            outputs.append(np.asarray(function(self._params, np.pad(batch, padding)))[: len(batch)])
        return np.concatenate(outputs)


def save_tokenizer(directory: str | Path, config: VQGANConfig, params: dict) -> None:
    """Writes `config.json` and `model.safetensors` (float32) into `directory`.

    Each file is replaced as a whole, so an interrupted save leaves the codec that was there.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    flat = {
        ".".join(map(str, path)): np.asarray(leaf, np.float32)
        for path, leaf in nnx.traversals.flatten_mapping(params).items()
    }
    save_file(flat, directory / "model.safetensors.part")
    (directory / "config.json.part").write_text(
        json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    )
    for name in ("config.json", "model.safetensors"):
        (directory / f"{name}.part").replace(directory / name)


def unflatten_parameters(flat: dict[str, np.ndarray], config: VQGANConfig, *, source: str) -> dict:
    """Arranges arrays named by dotted paths as the parameters of `VQGAN(config)`.

    Args:
        flat: dotted parameter path to array.
        config: the autoencoder they belong to.
        source: where they come from, for the error.

    Returns:
        The nested parameter dict.

    Raises:
        ValueError: with all missing, unexpected and mis-shaped names at once.
    """
    abstract = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(VQGAN(config, nnx.Rngs(0)))))
    wanted = nnx.traversals.flatten_mapping(abstract)
    names = {path: ".".join(map(str, path)) for path in wanted}
    problems = [f"missing {name}" for name in names.values() if name not in flat]
    problems += [f"unexpected {name}" for name in sorted(flat.keys() - set(names.values()))]
    problems += [
        f"{name} has shape {flat[name].shape}, the config asks for {wanted[path].shape}"
        for path, name in names.items()
        if name in flat and flat[name].shape != wanted[path].shape
    ]
    if problems:
        raise ValueError(
            f"{source} does not fit the tokenizer's config:\n  " + "\n  ".join(problems)
        )
    return nnx.traversals.unflatten_mapping(
        {path: flat[name].astype(np.float32) for path, name in names.items()}
    )
