"""Video to tokens and back, in fixed-size batches of frames, behind one small interface.

A tokenizer is a directory with `config.json` (the shape of the autoencoder) and `model.safetensors`
(its weights). The SHA-256 of the two is its identity: datasets and training runs record it, so that
tokens are never decoded by a tokenizer that did not make them. The conversion between uint8 pixels
and the network's [-1, 1] lives here and nowhere else.

A directory whose `config.json` says so holds a PyTorch tokenizer instead, which `Tokenizer.load`
runs behind the same interface (`exported.py`).
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from maskflow_jax.io import files
from maskflow_jax.io.weights import check_finite, check_weights
from maskflow_jax.tokenizers import batching
from maskflow_jax.tokenizers.architectures import (
    TokenizerConfig,
    architecture_of,
    config_from_json,
    config_to_json,
)
from maskflow_jax.tokenizers.pixels import to_uint8, to_unit_range

if TYPE_CHECKING:
    from maskflow_jax.tokenizers.exported import ExportedTokenizer

PRETRAINED = Path(__file__).parent / "pretrained"
DTYPES = ("float32", "bfloat16")


class Tokenizer:
    """Encodes frames to tokens and decodes tokens to frames, on all devices of this process.

    Attributes:
        config: Shape of the autoencoder.
        identity: Record that datasets and runs compare: `name`, `sha256`, `codebook_size`,
            `grid` (tokens along the two sides of a frame) and `frame_size` in pixels.
        batch_size: Frames handled by one call of the network, on all devices together; the last
            batch is padded, so the network is compiled once.
    """

    def __init__(
        self,
        config: TokenizerConfig,
        params: dict,
        *,
        name: str,
        sha256: str,
        batch_size: int | None = None,
        memory_gb: float | None = None,
        dtype: str = "float32",
    ):
        """Prepares the network.

        Args:
            config: Shape of the autoencoder.
            params: Its parameters, float32.
            name: For `identity`.
            sha256: For `identity`.
            batch_size: Frames of one call, rounded up to a multiple of the devices; by default 64
                or as many as `memory_gb` holds.
            memory_gb: Memory of each device to use for frames under way, in 1e9 bytes, estimated.
            dtype: Of the convolutions, "float32" or "bfloat16". The codebook, the distances to it
                and statistics are always float32; bfloat16 changes some tokens and a grey level
                here and there, so make a dataset with one of them.

        Raises:
            ValueError: for another dtype, or memory that does not hold a frame.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.config = config
        self.identity = {
            "name": name,
            "sha256": sha256,
            "codebook_size": config.codebook_size,
            "grid": [config.grid_size, config.grid_size],
            "frame_size": config.frame_size,
        }
        devices = jax.local_devices()
        # A CPU computes bfloat16 in float32.
        itemsize = 4 if devices[0].platform == "cpu" else jnp.dtype(dtype).itemsize
        if batch_size is None:
            frame_bytes = architecture_of(config).bytes_per_frame(config, itemsize)
            batch_size = batching.choose_batch_size(frame_bytes, memory_gb, len(devices))
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        self._encode, self._decode = _compiled(config, jnp.dtype(dtype), devices)
        self._codebook = np.asarray(params["codebook"])
        network = {key: value for key, value in params.items() if key != "codebook"}
        network = jax.tree.map(lambda x: np.asarray(x, jnp.dtype(dtype)), network)
        everywhere = NamedSharding(_mesh(devices), PartitionSpec())
        self._split = NamedSharding(_mesh(devices), PartitionSpec("frames"))
        self._params = jax.device_put({**network, "codebook": self._codebook}, everywhere)

    @classmethod
    def load(cls, path: str | Path, **kwargs) -> "Tokenizer | ExportedTokenizer":
        """Loads a tokenizer from a directory, or from a name shipped with the package.

        Args:
            path: A directory with `config.json` and `model.safetensors`, or a name such as "maze",
                or a directory that `export_tokenizer` wrote.
            **kwargs: Passed on to the constructor: `batch_size`, `memory_gb`, `dtype`.

        Raises:
            FileNotFoundError: if neither a directory nor a shipped tokenizer of that name exists.
            ImportError: if it is a tokenizer of torch, and torch is missing.
            ValueError: if the weights are damaged or do not fit the config, every mismatch named.
        """
        directory = Path(path)
        if not directory.is_dir():
            directory = PRETRAINED / str(path)
        if _kind(directory / "config.json") == "torch_export":
            from maskflow_jax.tokenizers.exported import ExportedTokenizer

            return ExportedTokenizer.load(directory, **kwargs)
        weights, settings = directory / "model.safetensors", directory / "config.json"
        if not (weights.is_file() and settings.is_file()):
            shipped = ", ".join(sorted(p.name for p in PRETRAINED.glob("*") if p.is_dir()))
            raise FileNotFoundError(
                f"no tokenizer at {path!s}: expected a directory with config.json and "
                f"model.safetensors, or one of the shipped names: {shipped}"
            )
        digest = _digest(directory)
        noted = directory / "sha256"
        if noted.is_file() and noted.read_text().strip() != digest:
            raise ValueError(
                f"the tokenizer at {directory} is damaged or was changed by hand (its files are "
                "not those that its sha256 is of); copy or import it again"
            )
        try:
            config = config_from_json(json.loads(settings.read_text()))
            flat = load_file(weights)
        except (SafetensorError, json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"the tokenizer at {directory} cannot be read: {error}") from error
        params = unflatten_parameters(flat, config, source=str(weights))
        return cls(config, params, name=directory.name, sha256=digest, **kwargs)

    @property
    def codebook(self) -> np.ndarray:
        """The code vectors, float32 [K, C]."""
        return self._codebook

    def _place(self, batch: np.ndarray) -> jax.Array:
        """Splits a batch over the devices; of several processes, jit does not for NumPy arrays."""
        return jax.device_put(batch, self._split)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Encodes frames.

        Args:
            frames: uint8 [F, S, S, 3] with S the tokenizer's frame size.

        Returns:
            Tokens int32 [F, h, w].

        Raises:
            ValueError: if the frames have another size or type.
        """
        batching.check_frames(frames, self.identity)
        return batching.in_batches(
            lambda batch: self._encode(self._params, self._place(batch)), frames, self.batch_size
        )

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Decodes tokens.

        Args:
            tokens: Integers [F, h, w] in [0, codebook_size).

        Returns:
            Frames uint8 [F, S, S, 3].

        Raises:
            ValueError: if the grid differs or a value is no codebook index (a mask token, say).
        """
        tokens = np.asarray(tokens)
        batching.check_tokens(tokens, self.identity)
        return batching.in_batches(
            lambda batch: self._decode(self._params, self._place(batch)),
            tokens.astype(np.int32),
            self.batch_size,
        )


def _mesh(devices: list) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(devices), ("frames",))


def _compiled(config: TokenizerConfig, dtype: np.dtype, devices: list) -> tuple:
    """Encoder and decoder as functions of (params, batch) that split the batch over devices."""
    graphdef, _ = architecture_of(config).abstract(config)
    mesh = _mesh(devices)
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("frames",)))

    # Accelerators would compute float32 in fewer bits, and choose other tokens than a CPU.
    def encode(params, frames):
        model = nnx.merge(graphdef, params)
        with jax.default_matmul_precision("highest"):
            latents = model.encode(to_unit_range(frames).astype(dtype))
        return model.nearest_code(latents.astype(jnp.float32))

    def decode(params, tokens):
        model = nnx.merge(graphdef, params)
        quantised = jnp.take(model.codebook[...], tokens, axis=0)
        with jax.default_matmul_precision("highest"):
            return to_uint8(model.decode(quantised.astype(dtype)).astype(jnp.float32))

    settings = {"in_shardings": (whole, split), "out_shardings": split}
    return jax.jit(encode, **settings), jax.jit(decode, **settings)


def _kind(settings: Path) -> str | None:
    """The `kind` that a `config.json` states; None for an autoencoder of this project."""
    try:
        return json.loads(settings.read_text()).get("kind")
    except (OSError, ValueError, AttributeError):
        # Missing and damaged files are reported where the tokenizer is read.
        return None


def save_tokenizer(directory: str | Path, config: TokenizerConfig, params: dict) -> None:
    """Writes `config.json`, `model.safetensors` and their `sha256` into `directory`.

    Each file is replaced as a whole, so an interrupted save leaves the tokenizer that was there.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = architecture_of(config).weights
    flat = {
        ".".join(map(str, path)): np.asarray(leaf, weights)
        for path, leaf in nnx.traversals.flatten_mapping(params).items()
    }
    settings = json.dumps(config_to_json(config), indent=2) + "\n"
    with files.atomic_file(directory / "model.safetensors") as part:
        save_file(flat, part)
        (directory / "sha256").unlink(missing_ok=True)  # until both files are in place
        files.write_text(directory / "config.json", settings)
    files.write_text(directory / "sha256", _digest(directory) + "\n")


def _digest(directory: Path) -> str:
    """SHA-256 of a tokenizer's two files."""
    contents = [(directory / name).read_bytes() for name in ("config.json", "model.safetensors")]
    return hashlib.sha256(b"".join(contents)).hexdigest()


def unflatten_parameters(
    flat: dict[str, np.ndarray], config: TokenizerConfig, *, source: str
) -> dict:
    """Arranges arrays named by dotted paths as the parameters of `VQGAN(config)`.

    Args:
        flat: Dotted parameter path to array.
        config: The autoencoder they belong to.
        source: Origin of the arrays, for the error.

    Returns:
        The nested parameter dict.

    Raises:
        ValueError: with all missing, unexpected and mis-shaped names at once, or if values are not
            finite.
    """
    wanted = nnx.traversals.flatten_mapping(architecture_of(config).abstract(config)[1])
    names = {path: ".".join(map(str, path)) for path in wanted}
    check_weights(
        {name: array.shape for name, array in flat.items()},
        {name: wanted[path].shape for path, name in names.items()},
        f"{source} does not fit the tokenizer's config:",
    )
    check_finite(flat, source)
    return nnx.traversals.unflatten_mapping(
        {path: flat[name].astype(np.float32) for path, name in names.items()}
    )
