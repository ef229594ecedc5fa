"""Receipts: one JSON file per evaluation, from which its numbers can be computed again.

A receipt holds the protocol, the digests of all that decides the numbers (weights, tokenizer, real
videos, samples, feature networks, features), seeds, amounts, versions, the device, and the metrics
with their spread. Each section carries a digest of its own, so that one that was edited is named; a
forged digest does not help, because `compare` holds the metrics against recomputed ones.
"""

import dataclasses
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskflow_jax.io.files import sha256_of, sha256_of_json, write_text

FORMAT = 1
# Two machines add float32 numbers in other orders. The distances are differences of large sums, so
# the tolerance is relative to the value or, for values near 0, to `_SMALL`.
TOLERANCE = 1e-3
_SMALL = 1e-2
_PACKAGES = ("maskflow_jax", "jax", "jaxlib", "flax", "numpy", "scipy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured number.

    Attributes:
        name: Its name.
        draws: Its value in each draw.
        n: Number of generated videos (or clips) of each draw.
        floor: The same number for real videos, of a distance between two disjoint sets of them;
            None where there is none.
        floor_n: Number of real clips, of a distance in the smaller set.
    """

    name: str
    draws: tuple[float, ...]
    n: int
    floor: float | None = None
    floor_n: int | None = None

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return float(np.mean(self.draws))

    @property
    def std(self) -> float | None:
        """Standard deviation over the draws (divided by their number less one); None for one."""
        return float(np.std(self.draws, ddof=1)) if len(self.draws) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """The metric as a receipt holds it."""
        found = {"mean": self.mean, "std": self.std, "draws": list(self.draws), "n": self.n}
        more = {"floor": self.floor, "floor_n": self.floor_n}
        return found | {name: value for name, value in more.items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Whether something that a receipt says holds.

    Attributes:
        name: What was checked: a section, a file or a metric.
        holds: Whether it holds.
        how: "unchanged", "bitwise", "within 0.001", or what is wrong.
    """

    name: str
    holds: bool
    how: str

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}  {self.name}: {self.how}"


def make_receipt(sections: Mapping[str, Any], metrics: Iterable[Metric]) -> dict[str, Any]:
    """Puts a receipt together.

    Args:
        sections: Sections of JSON values: `protocol`, `settings`, `hashes`, `files` and so on.
        metrics: What was measured.

    Returns:
        The receipt, with the sections `versions`, `device`, `metrics` and `digests`.
    """
    receipt = {
        **json.loads(json.dumps(dict(sections))),
        "versions": these_versions(),
        "device": this_device(),
        "metrics": {metric.name: metric.to_json() for metric in metrics},
    }
    digests = {name: sha256_of_json(section) for name, section in receipt.items()}
    return {"format": FORMAT, **receipt, "digests": digests}


def these_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version()
    }


def same_machine(receipt: Mapping[str, Any]) -> bool:
    """Whether a receipt was made on such a machine as this one, with the same versions."""
    return receipt["versions"] == these_versions() and receipt["device"] == this_device()


def this_device() -> dict[str, Any]:
    """What the numbers are computed on."""
    devices = jax.local_devices()
    return {
        "kind": devices[0].device_kind,
        "platform": devices[0].platform,
        "count": len(devices),
        "machine": platform.machine(),
        "processor": _processor(),
    }


def write_receipt(path: str | Path, receipt: Mapping[str, Any]) -> None:
    """Writes a receipt."""
    write_text(path, json.dumps(receipt, indent=1, allow_nan=False) + "\n")


def read_receipt(path: str | Path) -> dict[str, Any]:
    """Reads a receipt.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no receipt, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no receipt at {path}")
    try:
        receipt = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    number = receipt.get("format") if isinstance(receipt, dict) else None
    if not isinstance(number, int) or not {"digests", "metrics"} <= receipt.keys():
        raise ValueError(f"{path} is no receipt of an evaluation")
    if number > FORMAT:
        raise ValueError(
            f"{path} has format {number}, this version reads formats up to {FORMAT}; install a "
            "newer version of maskflow_jax"
        )
    return receipt


def check_sections(receipt: Mapping[str, Any]) -> list[Check]:
    """Checks that no section was edited since the receipt was made."""
    digests = receipt["digests"]
    checks = []
    for name in sorted({*receipt, *digests} - {"format", "digests"}):
        if name not in receipt:
            checks.append(Check(name=f"section {name}", holds=False, how="it was removed"))
        elif digests.get(name) != sha256_of_json(receipt[name]):
            checks.append(Check(name=f"section {name}", holds=False, how="it was edited"))
        else:
            checks.append(Check(name=f"section {name}", holds=True, how="unchanged"))
    return checks


def hash_files(folders: Sequence[str | Path], pattern: str) -> list[dict[str, str]]:
    """SHA-256 of the files of each folder by their names, in their order."""
    return [
        {path.name: sha256_of(path) for path in sorted(Path(folder).glob(pattern))}
        for folder in folders
    ]


def check_files(folder: str | Path, expected: Mapping[str, str]) -> list[Check]:
    """Checks the files of a folder against their digests.

    Returns:
        A failed check for each file that is missing or changed, or else one that holds.
    """
    checks = []
    for name, digest in expected.items():
        path = Path(folder) / name
        if not path.is_file():
            checks.append(Check(name=f"file {path}", holds=False, how="it is missing"))
        elif sha256_of(path) != digest:
            checks.append(Check(name=f"file {path}", holds=False, how="it was changed"))
    if not checks:
        how = f"unchanged ({len(expected)} files)"
        checks.append(Check(name=f"folder {folder}", holds=True, how=how))
    return checks


def check_hash(name: str, stored: str, found: str) -> Check:
    """Checks one digest."""
    same = stored == found
    return Check(name=name, holds=same, how="unchanged" if same else f"it is another one: {found}")


def compare(receipt: Mapping[str, Any], metrics: Iterable[Metric]) -> list[Check]:
    """Holds a receipt's metrics against recomputed ones, number by number.

    On the machine that made the receipt, with the same versions, every number must be the same to
    the last bit; elsewhere within `TOLERANCE`.

    Args:
        receipt: The receipt.
        metrics: Recomputed from the same samples.
    """
    bitwise = same_machine(receipt)
    found = {metric.name: metric.to_json() for metric in metrics}
    checks = []
    for name in sorted({*receipt["metrics"], *found}):
        stored = receipt["metrics"].get(name)
        if stored is None or name not in found:
            where = "the receipt" if stored is None else "the recomputed ones"
            checks.append(Check(name=name, holds=False, how=f"it is not in {where}"))
        else:
            checks.append(_compare_one(name, stored, found[name], bitwise))
    return checks


def _compare_one(
    name: str, stored: Mapping[str, Any], found: Mapping[str, Any], bitwise: bool
) -> Check:
    old, new = (list(_numbers(metric)) for metric in (stored, found))
    if old == new:
        return Check(name=name, holds=True, how="bitwise")
    alike = [key for key, _ in old] == [key for key, _ in new]
    worst = max(
        (_apart(a, b) for (_, a), (_, b) in zip(old, new, strict=True)) if alike else [math.inf]
    )
    said = f"{stored.get('mean')} there, {found['mean']} recomputed"
    if bitwise:
        return Check(name=name, holds=False, how=f"{said}, on the same machine")
    if worst <= TOLERANCE:
        return Check(name=name, holds=True, how=f"within {TOLERANCE:g} (by {worst:.1e})")
    return Check(name=name, holds=False, how=f"{said}, apart by {worst:.1e}")


def _numbers(metric: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The numbers of a metric under names; the standard deviation follows from the draws."""
    for key, value in sorted(metric.items()):
        if key == "draws":
            yield from ((f"draw {i}", x) for i, x in enumerate(value))
        elif key != "std" and value is not None:
            yield key, value


def _apart(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), _SMALL)


def _processor() -> str:
    """The processor's model where the system says so."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
