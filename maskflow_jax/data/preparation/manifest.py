"""What became of every file of a source: the manifest, and a summary of it.

The manifest, `manifest.jsonl`, has a line of JSON for every item and every ignored file. Its
`status` is "written", "filtered" (too short), "failed" or "ignored", with a `reason` for all but
the first.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.data.preparation.work_directory import FAILED, WRITTEN
from maskflow_jax.data.sources.items import Item, Listing
from maskflow_jax.io import files

FILTERED, IGNORED = "filtered", "ignored"
MANIFEST = "manifest.jsonl"

_FACTS = ("sha256", "bytes", "source_frames", "source_fps", "width", "height", "frames", "fps")
_NAMED = 10  # how many of what may be thousands a message names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a source's files.

    Attributes:
        counts: Number of files by status.
        reasons: Number of files by the reason why they were not written, most frequent first.
        videos: Number of records by split.
        frames: Number of frames by split.
        duplicates: Number of written files whose content another written file has.
        tokens: Number of tokens written.
        more_reasons: Number of reasons beyond `reasons`.
        failed: Ids of the items that failed.
        manifest: Path of the manifest, which names all files.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    videos: Mapping[str, int]
    frames: Mapping[str, int]
    duplicates: int
    tokens: int
    more_reasons: int = 0
    failed: Sequence[str] = ()
    manifest: Path | None = None

    @property
    def failed_share(self) -> float:
        """Share of the items that failed; ignored files are no items."""
        items = sum(n for status, n in self.counts.items() if status != IGNORED)
        return self.counts.get(FAILED, 0) / items if items else 0.0

    def __str__(self):
        lines = [
            "files: " + ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items())),
            *(f"  {count} x {reason}" for reason, count in self.reasons.items()),
            *([f"  and {self.more_reasons} more reasons"] if self.more_reasons else []),
            *([f"failed: {some(self.failed)}"] if self.failed else []),
            *([f"{self.manifest} names all files"] if self.failed and self.manifest else []),
            *(
                f"{split}: {count} videos, {self.frames[split]} frames"
                for split, count in self.videos.items()
            ),
            f"{self.tokens} tokens; {self.duplicates} files have the content of another",
        ]
        return "\n".join(lines)


def summarise(
    records: Iterable[Mapping[str, Any]], listing: Listing, manifest: Path | None = None
) -> Summary:
    """Counts what became of the files.

    Args:
        records: Records of the items, as `assembly.collect_records` returns them.
        listing: Listing of the source.
        manifest: Path of the manifest, for the summary.
    """
    records, items = list(records), {item.id: item for item in listing.items}
    counts = collections.Counter(record["status"] for record in records)
    counts[IGNORED] += len(listing.ignored)
    reasons = collections.Counter(
        f"{record['status']}: {_anonymous(record['reason'], items[record['id']])}"
        for record in records
        if record["reason"]
    )
    reasons += collections.Counter(f"{IGNORED}: {why}" for _, why in listing.ignored)
    contents = [record["sha256"] for record in records if record["status"] == WRITTEN]
    return Summary(
        counts={status: count for status, count in counts.items() if count},
        reasons=dict(reasons.most_common(_NAMED)),
        videos={},
        frames={},
        duplicates=len(contents) - len(set(contents)),
        tokens=sum(_written(record)[1] for record in records),
        more_reasons=max(len(reasons) - _NAMED, 0),
        failed=tuple(record["id"] for record in records if record["status"] == FAILED),
        manifest=manifest,
    )


def write_manifest(path: Path, records: Iterable[Mapping[str, Any]], listing: Listing) -> Path:
    """Writes a line of JSON for every item and every ignored file, sorted by id."""
    lines = {}
    for record in records:
        line = {"id": record["id"], "status": record["status"], "reason": record["reason"]}
        line |= {name: record.get(name) for name in _FACTS}
        line["frames_written"], line["tokens"] = _written(record)
        lines[record["id"]] = line | {"split": record["split"], "labels": record["labels"]}
    for name, reason in listing.ignored:
        lines[name] = {"id": name, "status": IGNORED, "reason": reason}
    text = "".join(json.dumps(lines[name], ensure_ascii=False) + "\n" for name in sorted(lines))
    files.write_text(path, text)
    return path


def some(names: Sequence[str]) -> str:
    """The first names of what may be thousands, for messages."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _written(record: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of frames and of tokens of a record that are in the dataset."""
    if record["status"] != WRITTEN:
        return 0, 0
    frames, *grid = record["shape"]
    frames = record.get("frames_written", frames)
    return frames, frames * int(np.prod(grid))


def _anonymous(reason: str, item: Item) -> str:
    """A reason without the files' names, so that equal ones can be counted."""
    for path in item.paths:
        for name in (str(path.absolute()), str(path), path.name):
            reason = reason.replace(name, "FILE").replace(repr(name)[1:-1], "FILE")
    if not item.paths:
        reason = reason.replace(item.id, "FILE")
    # Folders of another machine remain before the name.
    return re.sub(r"[^\s'\"`(]*FILE", "FILE", " ".join(reason.split()))[:160]
