"""Tokenizers from other PyTorch code: exported programs behind the interface of `Tokenizer`.

A directory that `exporting.py` wrote holds `config.json` and two programs of `torch.export`:

    encoder.pt2    images float32 [B, 3, S, S] in [-1, 1] -> tokens, integers [B, h, w]
    decoder.pt2    tokens int64 [B, h, w] -> images float [B, 3, S, S], nominally in [-1, 1]

Torch runs them on the CPU; the code that made them is not needed. The SHA-256 of the three files is
the identity. Exporting the same network again gives another one, as archives differ in some bytes:
keep the directory.

These programs are code. `torch.export.load` unpickles parts of the archive without restriction (in
torch 2.13 sample inputs, and weights marked as pickled, run whatever they say) and evaluates
expressions from it, so a .pt2 from a stranger can do anything that you can do. Load only what you
made, or would run as a script.
"""

import dataclasses
import json
import pickle
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from absl import logging

from maskflow_jax.io.files import sha256_of_files
from maskflow_jax.tokenizers import batching
from maskflow_jax.tokenizers.pixels import to_uint8, to_unit_range

KIND = "torch_export"
FILES = ("config.json", "encoder.pt2", "decoder.pt2")

# How a damaged archive, or one of another version of torch, shows.
_DAMAGE = (
    RuntimeError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedConfig:
    """Description of a pair of programs.

    Attributes:
        frame_size: Side of the square frames in pixels.
        codebook_size: Tokens are in [0, codebook_size).
        grid: Tokens along the two sides of a frame.
        batch_size: Frames that the programs take; None if any number.
        bytes_per_frame: Estimated memory of a frame while it is processed.
        torch_version: Version of torch that wrote them.
        kind: Mark of such directories.
    """

    frame_size: int
    codebook_size: int
    grid: tuple[int, int]
    batch_size: int | None
    bytes_per_frame: int
    torch_version: str
    kind: str = KIND

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))


class ExportedTokenizer:
    """Encodes frames to tokens and decodes tokens to frames by programs of torch.

    Attributes:
        config: Description of the programs.
        identity: As `Tokenizer.identity`.
        batch_size: Frames handled by one call.
    """

    def __init__(
        self,
        config: ExportedConfig,
        programs: tuple[Any, Any],
        *,
        name: str,
        sha256: str,
        batch_size: int | None = None,
        memory_gb: float | None = None,
        dtype: str = "float32",
    ):
        """Takes the programs as they come from `torch.export.load`.

        Args:
            config: Description of the programs.
            programs: Encoder, images to tokens, and decoder, tokens to images.
            name: For `identity`.
            sha256: For `identity`.
            batch_size: Frames of one call, by default 64 or as many as `memory_gb` holds; programs
                that were exported for one batch size keep theirs.
            memory_gb: Memory to use for frames under way, in 1e9 bytes, estimated.
            dtype: Only "float32": what a program computes in was fixed at its export.

        Raises:
            ValueError: for another dtype, or memory that does not hold a frame.
        """
        if dtype != "float32":
            raise ValueError(
                f"dtype {dtype!r}: tokenizer {name} is an exported program, whose dtype was fixed "
                "at its export; export the module in another one"
            )
        self.config = config
        self.identity = {
            "name": name,
            "sha256": sha256,
            "codebook_size": config.codebook_size,
            "grid": list(config.grid),
            "frame_size": config.frame_size,
        }
        if batch_size is None:
            batch_size = batching.choose_batch_size(config.bytes_per_frame, memory_gb, 1)
        self.batch_size = config.batch_size or batch_size
        self._torch = import_torch()
        self._encoder, self._decoder = (program.module() for program in programs)

    @classmethod
    def load(cls, directory: Path, **kwargs) -> "ExportedTokenizer":
        """Loads the programs of a directory; they can run code, see above.

        Args:
            directory: That `exporting.export_tokenizer` wrote.
            **kwargs: Passed on to the constructor.

        Raises:
            FileNotFoundError: if a file is missing.
            ImportError: if torch is missing.
            ValueError: if a file is damaged, or of another version of torch.
        """
        if missing := [name for name in FILES if not (directory / name).is_file()]:
            raise FileNotFoundError(
                f"the tokenizer at {directory} lacks {', '.join(missing)}; copy it again"
            )
        torch = import_torch()
        digest = sha256_of_files(directory / name for name in FILES)
        try:
            config = ExportedConfig(**json.loads((directory / FILES[0]).read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{directory / FILES[0]} cannot be read: {error}") from error
        logging.warning(
            "loading programs of torch from %s, which can run code: use only files you trust",
            directory,
        )
        programs = [_load(torch, directory / name, config) for name in FILES[1:]]
        name = directory.resolve().name
        return cls(config, tuple(programs), name=name, sha256=digest, **kwargs)

    @property
    def codebook(self) -> np.ndarray:
        """There is none: a program does not show its codes.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"tokenizer {self.identity['name']} is an exported program without a codebook; what "
            "compares codes needs an imported tokenizer"
        )

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Encodes frames.

        Args:
            frames: uint8 [F, S, S, 3] with S the tokenizer's frame size.

        Returns:
            Tokens int32 [F, h, w].

        Raises:
            ValueError: if the frames have another size or type, or the program makes no tokens.
        """
        batching.check_frames(frames, self.identity)
        tokens = self._in_batches(self._encode, frames)
        size = self.config.codebook_size
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < size):
            raise ValueError(
                f"the encoder of {self.identity['name']} made tokens from {tokens.min()} to "
                f"{tokens.max()}, not 0 to {size - 1}; export it with the right codebook_size"
            )
        return tokens.astype(np.int32)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Decodes tokens.

        Args:
            tokens: Integers [F, h, w] in [0, codebook_size).

        Returns:
            Frames uint8 [F, S, S, 3].

        Raises:
            ValueError: if the grid differs or a value is no token (a mask token, say).
        """
        tokens = np.asarray(tokens)
        batching.check_tokens(tokens, self.identity)
        return self._in_batches(self._decode, tokens.astype(np.int64))

    def _in_batches(self, function, items: np.ndarray) -> np.ndarray:
        # Unlike compiled programs, these take fewer frames at once for less, if they take any.
        pad = self.config.batch_size is not None
        return batching.in_batches(function, items, self.batch_size, pad=pad)

    def _encode(self, frames: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(to_unit_range(frames).transpose(0, 3, 1, 2))
        with self._torch.no_grad():
            return self._encoder(self._torch.from_numpy(images)).numpy()

    def _decode(self, tokens: np.ndarray) -> np.ndarray:
        with self._torch.no_grad():
            images = self._decoder(self._torch.from_numpy(tokens)).float().numpy()
        return np.asarray(to_uint8(images.transpose(0, 2, 3, 1)))


def import_torch() -> ModuleType:
    """Torch, or an ImportError that names the extra."""
    try:
        import torch
        import torch.export
    except ImportError as error:
        raise ImportError(
            "an exported tokenizer runs in torch, which is not installed: pip install "
            "'maskflow_jax[torch]' (or '.[torch]' in a checkout)"
        ) from error
    return torch


def _load(torch: ModuleType, path: Path, config: ExportedConfig) -> Any:
    try:
        return torch.export.load(str(path))
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
        raise ValueError(
            f"{path} is damaged, or torch {torch.__version__} cannot read what torch "
            f"{config.torch_version} wrote ({reason}); copy it again or export it anew"
        ) from error
