"""Files of torch weights as NumPy arrays: torch's own pickles, and safetensors.

A file holds one state dict, or several under names beside some numbers: a released MaskFlow
checkpoint is `{"model": ..., "ema": ..., "train_steps": 200000, "best_fid": 12.3}`. Torch is only
imported for pickles, and only tensors and plain values are unpickled: no file can run code.
"""

import dataclasses
import functools
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from maskflow_jax.io import files

StateDict = dict[str, np.ndarray]

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")

# What wrappers of torch (DataParallel, DistributedDataParallel, compile) put before every name.
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)+")

# The errors of torch's reader for files that are cut, altered or of another kind.
_DAMAGE = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchFile:
    """The contents of a file.

    Attributes:
        path: Path of the file.
        sections: State dicts by name; "" where the file is one state dict. float16 and bfloat16 are
            converted to float32; `module.` and `_orig_mod.` before names are removed.
        numbers: The plain numbers beside them, such as `train_steps`.
    """

    path: Path
    sections: dict[str, StateDict]
    numbers: dict[str, int | float]

    def state_dict(self, section: str | None = None) -> StateDict:
        """Picks a state dict.

        Args:
            section: Its name; None where there is only one.

        Raises:
            ValueError: if there is none of that name, or several and none is named.
        """
        there = ", ".join(map(repr, filter(None, self.sections))) or "none, it is one state dict"
        if section is None and len(self.sections) == 1:
            return next(iter(self.sections.values()))
        if section is None:
            raise ValueError(f"{self.path} holds several state dicts; choose a section: {there}")
        if section not in self.sections:
            raise ValueError(f"{self.path} has no section {section!r}; its sections: {there}")
        return self.sections[section]


def read_torch_file(path: str | Path) -> TorchFile:
    """Reads all state dicts of a file.

    Args:
        path: `.safetensors`, or a pickle of torch: `.pt`, `.pth`, `.ckpt` or `.bin`. Large pickles
            are mapped into memory, not copied, so the file must stay as it is.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if torch is needed and missing.
        ValueError: if the file is damaged, holds anything but tensors and plain values, or no state
            dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}; correct the path")
    if path.suffix == ".safetensors":
        return TorchFile(path=path, sections={"": _read_safetensors(path)}, numbers={})
    _check_suffix(path)
    torch = _import_torch(path)
    contents = _unpickle(torch, path)
    sections = _sections(torch, contents)
    if not sections:
        kind = f"the keys {list(contents)[:10]}" if isinstance(contents, Mapping) else "no keys"
        raise ValueError(f"{path} holds no state dict (names to tensors): it has {kind}")
    return TorchFile(
        path=path,
        sections={name: _plain_arrays(torch, section, path) for name, section in sections.items()},
        numbers={
            name: value
            for name, value in contents.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )


def read_torchscript(path: str | Path) -> StateDict:
    """Reads the state dict of a TorchScript archive.

    Torch has no reader of archives that only unpickles tensors: it compiles the archive's code, but
    does not call it.

    Args:
        path: Path of the file.

    Returns:
        The state dict; empty where the file is no TorchScript archive.

    Raises:
        ImportError: if it is one and torch is missing.
        ValueError: if torch cannot read it.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        if not any(name.partition("/")[2].startswith("code/") for name in archive.namelist()):
            return {}
    torch = _import_torch(path)
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
        raise ValueError(
            f"{path} is a TorchScript archive that this torch cannot read ({reason}); save its "
            "state dict as safetensors with the torch that wrote it"
        ) from error
    return _plain_arrays(torch, module.state_dict(), path)


def write_state_dict(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Writes arrays for torch; the file is there as a whole or not at all.

    Args:
        path: `.safetensors` (no torch needed), or one of `TORCH_SUFFIXES`, a pickle.
        contents: Names to arrays; in a pickle also names to dicts of arrays, and to numbers.

    Raises:
        ImportError: if torch is needed and missing.
        ValueError: for another suffix, or contents that safetensors cannot hold.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        if nested := [name for name, value in contents.items() if not hasattr(value, "shape")]:
            raise ValueError(
                f"{path} can hold one state dict only, not {', '.join(nested)}; write a .pt"
            )
        # safetensors stores the buffer as it lies: transposed views must be laid out first.
        arrays = {name: np.ascontiguousarray(x) for name, x in contents.items()}
        files.write_with(path, functools.partial(save_file, arrays))
    else:
        _check_suffix(path)
        torch = _import_torch(path)
        files.write_with(path, functools.partial(torch.save, _tensors(torch, contents)))


def _check_suffix(path: Path) -> None:
    if path.suffix not in TORCH_SUFFIXES:
        choices = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise ValueError(f"{path} has suffix {path.suffix!r}; files of weights end in {choices}")


def _import_torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a pickle of torch, which is not installed: pip install "
            "'maskflow_jax[torch]' (or '.[torch]' in a checkout); .safetensors needs no torch"
        ) from error
    return torch


def _read_safetensors(path: Path) -> StateDict:
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no file of safetensors ({error}); copy it again"
        ) from error
    if not arrays:
        raise ValueError(f"{path} holds no tensors")
    half = (np.float16, ml_dtypes.bfloat16)
    wide = {name: x.astype(np.float32) if x.dtype in half else x for name, x in arrays.items()}
    return _unwrapped(wide, path)


def _unpickle(torch: ModuleType, path: Path) -> Any:
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; copy it again")
    try:
        return torch.load(
            path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        # The line after torch's advice to load it anyway says what was found.
        found = str(error).partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise ValueError(
            f"{path} holds objects other than tensors, or is damaged, and was not loaded: "
            f"unpickling them could run code ({found or 'unknown contents'}). If you trust it, "
            "save its state dict alone, where the libraries that wrote it are installed:\n"
            f"  python -c \"import torch; c = torch.load('{path}', map_location='cpu', "
            "weights_only=False); n = ('model', 'ema', 'state_dict'); "
            "torch.save({k: c[k] for k in n if k in c} or c, "
            f"'{path.stem}_weights.pt')\""
        ) from error
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
        raise ValueError(
            f"{path} is damaged or no checkpoint of torch ({reason}); copy it again"
        ) from error


def _sections(torch: ModuleType, contents: Any) -> dict[str, Mapping[str, Any]]:
    """The state dicts in what was unpickled, by name; {} if there is none."""

    def tensors(value: Any) -> dict[str, Any]:
        pairs = value.items() if isinstance(value, Mapping) else ()
        return {k: x for k, x in pairs if isinstance(k, str) and isinstance(x, torch.Tensor)}

    named = contents.items() if isinstance(contents, Mapping) else ()
    whole = {name: value for name, value in named if isinstance(name, str) and tensors(value)}
    sections = {name: value for name, value in whole.items() if len(tensors(value)) == len(value)}
    if sections:  # beside them a scalar may be a tensor, too
        return sections
    return {"": tensors(contents)} if tensors(contents) else {}


def _plain_arrays(torch: ModuleType, section: Mapping[str, Any], path: Path) -> StateDict:
    half = (torch.float16, torch.bfloat16)
    wide = {name: x.float() if x.dtype in half else x for name, x in section.items()}
    return _unwrapped({name: x.detach().numpy() for name, x in wide.items()}, path)


def _unwrapped(arrays: StateDict, path: Path) -> StateDict:
    """Drops the wrappers' prefixes. Raises ValueError if two names become one."""
    plain: dict[str, str] = {}
    for name in arrays:
        short = name[match.end() :] if (match := _WRAPPERS.match(name)) else name
        if short in plain:
            raise ValueError(
                f"{path} has both {plain[short]!r} and {name!r}, which are one name without "
                "module. and _orig_mod.; keep one of them"
            )
        plain[short] = name
    return {short: arrays[name] for short, name in plain.items()}


def _tensors(torch: ModuleType, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as tensors, in nested dicts too; numbers as they are."""
    return {
        name: _tensors(torch, value)
        if isinstance(value, Mapping)
        else torch.from_numpy(np.require(value, requirements=["C", "W"]))
        if hasattr(value, "shape")
        else value
        for name, value in contents.items()
    }
