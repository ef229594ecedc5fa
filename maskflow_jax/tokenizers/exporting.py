"""A torch tokenizer as two exported programs, checked against the original before they are kept."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from maskflow_jax.io.files import atomic_folder
from maskflow_jax.tokenizers.exported import FILES, ExportedConfig, ExportedTokenizer, import_torch

_MAX_BATCH = 4096  # of programs that take any number of frames
_LIVE_TENSORS = 4  # copies of the largest that are there at once; torch frees early
_TOLERANCE = 1e-4


def export_tokenizer(
    tokenizer: Any,
    directory: str | Path,
    *,
    frame_size: int,
    codebook_size: int,
    batch_size: int | None = None,
) -> ExportedTokenizer:
    """Writes a tokenizer as a directory that `Tokenizer.load` takes.

    The programs are loaded again and compared with the original on random images; only a pair that
    agrees is kept.

    Args:
        tokenizer: An object with the methods `encode` and `decode`, or a pair of functions or
            modules (encoder, decoder). `encode` takes images float32 [B, 3, S, S] in [-1, 1] and
            returns integers [B, h, w] in [0, codebook_size), and nothing else; `decode` takes
            int64 [B, h, w] and returns images [B, 3, S, S]. Modules are set to evaluation. A pair
            of modules makes smaller files: each holds its own weights only.
        directory: Directory to write; its name becomes the tokenizer's.
        frame_size: S, in pixels.
        codebook_size: Number of different tokens.
        batch_size: Frames that the programs take, for networks that cannot take any number.

    Returns:
        The tokenizer, loaded from the directory.

    Raises:
        FileExistsError: if the directory is there and not empty.
        ImportError: if torch is missing.
        ValueError: if shapes, types or values are not as above, or the programs differ from the
            original.
    """
    torch, directory = import_torch(), Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; choose another directory")
    encode, decode = _functions(torch, tokenizer)
    # Two frames, as torch.export takes a dimension of 1 for a constant.
    images = _images(torch, batch_size or 2, frame_size, seed=0)
    with torch.no_grad():
        tokens = encode(images)
        _check_tokens(torch, tokens, len(images), codebook_size)
        tokens = tokens.long()
        _check_images(decode(tokens), images)
        programs = [
            _export(torch, function, example, batch_size)
            for function, example in ((encode, images), (decode, tokens))
        ]
    config = ExportedConfig(
        frame_size=frame_size,
        codebook_size=codebook_size,
        grid=tuple(tokens.shape[1:]),
        batch_size=batch_size,
        bytes_per_frame=max(_bytes_per_frame(torch, p, len(images)) for p in programs),
        torch_version=torch.__version__,
    )
    with atomic_folder(directory) as part:
        settings = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        (part / FILES[0]).write_text(settings)
        for program, name in zip(programs, FILES[1:], strict=True):
            torch.export.save(program, str(part / name))
        _compare(torch, ExportedTokenizer.load(part), encode, decode)
    return ExportedTokenizer.load(directory)


def make_tokenizer(name: str) -> Any:
    """Calls a function that makes a torch tokenizer.

    Args:
        name: Name of the function, `package.module:function`; modules of the current folder are
            found, too.

    Raises:
        ImportError: if there is no such module.
        ValueError: if the name is not of this form, or the module has no such function.
    """
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"module {name!r} names no function: write package.module:function")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    loaded = importlib.import_module(module)
    if not hasattr(loaded, function):
        raise ValueError(f"module {module!r} has no function {function!r}")
    return getattr(loaded, function)()


def _functions(torch: ModuleType, tokenizer: Any) -> tuple[Any, Any]:
    """Encoder and decoder as modules with nothing but `forward`."""
    if isinstance(tokenizer, tuple | list) and len(tokenizer) == 2:
        pair = [(part, part) for part in tokenizer]
    elif hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode"):
        pair = [(tokenizer, tokenizer.encode), (tokenizer, tokenizer.decode)]
    else:
        raise ValueError(
            f"a {type(tokenizer).__name__} is no tokenizer: give an object with encode and decode, "
            "or a pair (encoder, decoder)"
        )

    class Program(torch.nn.Module):
        def __init__(self, owner: Any, function: Callable):
            super().__init__()
            self.function = function
            if isinstance(owner, torch.nn.Module):
                self.owner = owner.eval()

        def forward(self, x):
            return self.function(x)

    return tuple(Program(owner, function) for owner, function in pair)


def _export(torch: ModuleType, function: Any, example: Any, batch_size: int | None) -> Any:
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    dynamic = ({0: batch},) if batch_size is None else None
    try:
        return torch.export.export(function, (example,), dynamic_shapes=dynamic)
    except Exception as error:
        if batch_size is None:
            error.add_note("if the network cannot take any number of frames, set batch_size")
        raise


def _bytes_per_frame(torch: ModuleType, program: Any, batch_size: int) -> int:
    """Memory of the largest tensors of a program, for each frame of its example."""
    sizes = [1]
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and node.op == "call_function":
            # A symbolic size remembers what it was in the example.
            shape = [size if isinstance(size, int) else size.node.hint for size in value.shape]
            sizes.append(int(np.prod(shape)) * value.element_size())
    return -(-_LIVE_TENSORS * max(sizes) // batch_size)


def _images(torch: ModuleType, count: int, frame_size: int, *, seed: int) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, frame_size, frame_size))
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)


def _check_tokens(torch: ModuleType, tokens: Any, count: int, codebook_size: int) -> None:
    """Raises ValueError unless the encoder does as agreed."""
    kind = getattr(tokens, "dtype", type(tokens).__name__)
    shape = list(getattr(tokens, "shape", []))
    if kind not in (torch.int64, torch.int32) or len(shape) != 3 or shape[0] != count:
        raise ValueError(
            f"encode returned {kind} {shape}; it must return int64 or int32 [{count}, h, w] alone"
        )
    if tokens.min() < 0 or tokens.max() >= codebook_size:
        raise ValueError(
            f"encode returned tokens from {tokens.min()} to {tokens.max()}, codebook_size is "
            f"{codebook_size}; correct it"
        )


def _check_images(decoded: Any, images: Any) -> None:
    shape = list(getattr(decoded, "shape", []))
    if shape != list(images.shape) or not decoded.is_floating_point():
        raise ValueError(
            f"decode returned {getattr(decoded, 'dtype', type(decoded).__name__)} {shape}; it must "
            f"return floats {list(images.shape)} alone"
        )


def _compare(torch: ModuleType, tokenizer: ExportedTokenizer, encode: Any, decode: Any) -> None:
    """Raises ValueError unless the written programs do what the original does."""
    config = tokenizer.config
    for count in [config.batch_size] if config.batch_size else [1, 3]:
        images = _images(torch, count, config.frame_size, seed=count)
        with torch.no_grad():
            tokens, written = encode(images), tokenizer._encoder(images)
            if not torch.equal(tokens, written):
                share = (tokens != written).float().mean().item()
                raise ValueError(f"the exported encoder changes {share:.2%} of the tokens")
            error = (decode(tokens.long()) - tokenizer._decoder(tokens.long())).abs().max().item()
        if not error <= _TOLERANCE:
            raise ValueError(f"the exported decoder differs by {error:.2g}, over {_TOLERANCE:g}")
