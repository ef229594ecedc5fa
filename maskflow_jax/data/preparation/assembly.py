"""From a finished work directory to the dataset: splits, manifest, records.

Every item of the listing must be done, whichever process or machine did it. Videos are written in
the order of their ids, so the dataset is the same to the byte however the work was divided or
interrupted. The manifest, `manifest.jsonl` in the dataset, has a line for every file.
"""

import collections
import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from maskflow_jax.data.dataset import Video, write_token_dataset
from maskflow_jax.data.preparation.run import Preparation
from maskflow_jax.data.preparation.work_directory import (
    FAILED,
    WRITTEN,
    PreparationError,
    WorkDirectory,
)
from maskflow_jax.data.sources.items import Item, Listing

FILTERED, IGNORED = "filtered", "ignored"
MANIFEST = "manifest.jsonl"

_FACTS = ("sha256", "bytes", "source_frames", "source_fps", "width", "height", "frames", "fps")
_NAMED = 10  # of what may be thousands


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a source's files.

    Attributes:
        counts: files by status: written, filtered, failed, ignored.
        reasons: of those that were not written, how many have each; the most frequent ones.
        videos: records of each split.
        frames: of each split.
        duplicates: written files whose content another one has, too.
        tokens: written.
        more_reasons: how many reasons there are beyond `reasons`.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    videos: Mapping[str, int]
    frames: Mapping[str, int]
    duplicates: int
    tokens: int
    more_reasons: int = 0

    @property
    def failed_share(self) -> float:
        """Of the items; ignored files are none."""
        items = sum(n for status, n in self.counts.items() if status != IGNORED)
        return self.counts.get(FAILED, 0) / items if items else 0.0

    def __str__(self):
        lines = [
            "files: " + ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items())),
            *(f"  {count} x {reason}" for reason, count in self.reasons.items()),
            *([f"  and {self.more_reasons} more reasons"] if self.more_reasons else []),
            *(
                f"{split}: {count} videos, {self.frames[split]} frames"
                for split, count in self.videos.items()
            ),
            f"{self.tokens} tokens; {self.duplicates} files have the content of another",
        ]
        return "\n".join(lines)


def collect_records(
    listing: Listing, work: WorkDirectory, *, min_frames: int = 1, complete: bool = True
) -> list[dict[str, Any]]:
    """The records of all items, in the listing's order.

    Args:
        listing: of the source.
        work: directory of what is done.
        min_frames: shorter videos get the status "filtered".
        complete: insist on every item.

    Raises:
        PreparationError: naming the items that are not done.
    """
    found = {item.id: work.record(item) for item in tqdm(listing.items, "records", leave=False)}
    missing = [item_id for item_id, record in found.items() if record is None]
    if missing and complete:
        raise PreparationError(
            f"{len(missing)} of {len(listing.items)} items are not in {work.path}: "
            f"{_some(missing)}; run the shards they belong to, or copy their "
            "work directories into this one"
        )
    records = []
    for item in listing.items:
        if (record := found[item.id]) is not None:
            record |= {"split": item.split, "labels": dict(item.labels)}
            if record["status"] == WRITTEN and record["frames"] < min_frames:
                reason = f"fewer frames than min_frames {min_frames}"
                record |= {"status": FILTERED, "reason": reason}
            records.append(record)
    return records


def check_unchanged(listing: Listing, work: WorkDirectory) -> None:
    """Checks that the files are still those whose tokens the work directory holds.

    Raises:
        PreparationError: naming the items whose files have changed or are gone.
    """
    changed = [
        item.id
        for item in tqdm(listing.items, "files", leave=False)
        if (record := work.record(item)) is not None
        and record["status"] == WRITTEN
        and not work.is_unchanged(item, record)
    ]
    if changed:
        raise PreparationError(
            f"{len(changed)} of {len(listing.items)} items have changed since {work.path} was "
            f"made, or are missing: {_some(changed)}; run the shards they belong to again, or put "
            "the files back"
        )


def choose_splits(records: Iterable[Mapping[str, Any]], test_fraction: float) -> dict[str, str]:
    """Assigns each content to a split.

    The source's own split counts where there is one. Otherwise a content's hash decides, which
    other files have no say in. Where the hashes of a few videos are all above the fraction, the
    smallest is held out, with a warning: more files may change that one's split.

    Args:
        records: of the written items, with `sha256` and `split`.
        test_fraction: share of contents to hold out; 0 makes no test split.

    Returns:
        SHA-256 of the content to "train" or "test". Files of one content are never divided; where
        the source puts them into both, they are held out.

    Raises:
        ValueError: for a fraction outside 0 to 1, or if nothing is left to train on.
    """
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction is {test_fraction}: choose a share from 0 to 1")
    splits, by_hash = {}, []
    for record in records:
        content, split = record["sha256"], record["split"]
        if split is None:
            by_hash.append(content)
        elif splits.setdefault(content, split) != split:
            logging.warning("%s is in both splits by its content: held out", record["id"])
            splits[content] = "test"
    by_hash = sorted(set(by_hash) - splits.keys())
    splits |= {c: "test" if _number(c) < test_fraction else "train" for c in by_hash}
    if test_fraction and by_hash and "test" not in splits.values():
        smallest = _number(by_hash[0])
        splits[by_hash[0]] = "test"
        logging.warning(
            "no video's hash is below --test_fraction=%g; one is held out all the same. "
            "--test_fraction=%.3f says so for good, also when there are more files",
            test_fraction,
            smallest + 0.001,
        )
    if test_fraction < 1 and splits and "train" not in splits.values():
        raise ValueError(
            f"all of the {len(splits)} videos would be held out, with none left to train on: add "
            "videos"
        )
    return splits


def assemble(
    preparation: Preparation,
    listing: Listing,
    work: WorkDirectory,
    *,
    test_fraction: float = 0.05,
    segment_frames: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Writes the dataset and its manifest from a complete work directory.

    Args:
        preparation: that the directory is of.
        listing: of its source.
        work: the directory.
        test_fraction: share of the videos to hold out where the source does not say which.
        segment_frames: cuts longer videos into records of so many frames; the last of a video is
            left out if it is shorter than `min_frames`.
        overwrite: replace a dataset that is there, once the new one is complete.

    Raises:
        FileExistsError: if the output is taken.
        PreparationError: if items are missing or damaged, or the dataset cannot be written.
        ValueError: if there is no video, or nothing to train on.
    """
    least = preparation.transform.min_frames
    if segment_frames is not None and segment_frames < max(least, 1):
        raise ValueError(f"segment_frames {segment_frames} is below min_frames {least}")
    records = collect_records(listing, work, min_frames=least)
    written = [record for record in records if record["status"] == WRITTEN]
    for record in written:
        cuts = _segments(record["frames"], segment_frames, least)
        record |= {"cuts": cuts, "frames_written": sum(cut.stop - cut.start for cut in cuts)}
    with _full_disk_explained(preparation.output):  # there to be read if what follows fails
        manifest = write_manifest(work.path / MANIFEST, records, listing)
    summary = summarise(records, listing)
    if not written:
        raise ValueError(f"there is no video to write; {manifest} says why of each. {summary}")
    try:
        splits = choose_splits(written, test_fraction)
    except ValueError as error:
        raise ValueError(f"{error}; {manifest} names all files") from error
    parts = {split: [] for split in sorted(set(splits.values()), reverse=True)}
    for record in written:
        record["split"] = splits[record["sha256"]]
        parts[record["split"]] += [(record, cut) for cut in record["cuts"]]
    rule = {"test_fraction": test_fraction, "segment_frames": segment_frames}
    with _full_disk_explained(preparation.output):
        manifest = write_manifest(work.path / MANIFEST, records, listing)
        write_token_dataset(
            preparation.output,
            {split: _videos(work, of_split, split) for split, of_split in parts.items()},
            tokenizer=preparation.tokenizer,
            source=preparation.describe() | rule,
            overwrite=overwrite,
            attached=[manifest],
        )
    return dataclasses.replace(
        summary,
        videos={split: len(of_split) for split, of_split in parts.items()},
        frames={s: sum(cut.stop - cut.start for _, cut in p) for s, p in parts.items()},
    )


def summarise(records: Iterable[Mapping[str, Any]], listing: Listing) -> Summary:
    """Counts what became of the files."""
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
    path.write_text(text, "utf-8", errors="backslashreplace")
    return path


def remove_work(work: WorkDirectory) -> None:
    """Deletes a work directory whose dataset is complete; what cannot be deleted stays."""
    try:
        shutil.rmtree(work.path)
    except OSError as error:
        logging.warning("%s is needed no more and cannot be deleted: %s", work.path, error)


@contextlib.contextmanager
def _full_disk_explained(output: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, PreparationError):
        raise
    except (OSError, RuntimeError) as error:  # array_record's writer raises the latter
        raise PreparationError(
            f"{output} cannot be written ({error}): make room or permit it, then start the same "
            "command again; the tokens are kept"
        ) from error


def _videos(
    work: WorkDirectory, parts: Sequence[tuple[dict[str, Any], slice]], split: str
) -> Iterator[Video]:
    opened, tokens = None, None
    for record, cut in tqdm(parts, f"writing {split}", unit="video"):
        if record is not opened:
            opened, tokens = record, work.tokens(record)
        whole = cut.stop - cut.start == record["frames"]
        video_id = record["id"] if whole else f"{record['id']}#{cut.start:06d}"
        yield video_id, tokens[cut], record["fps"]


def _segments(frames: int, length: int | None, least: int) -> list[slice]:
    """The parts of a video to write."""
    length = length or frames
    cuts = [slice(start, min(start + length, frames)) for start in range(0, frames, length)]
    return [cut for cut in cuts if cut.stop - cut.start >= least]


def _number(content: str) -> float:
    return int(content[:16], 16) / 2**64


def _written(record: Mapping[str, Any]) -> tuple[int, int]:
    """The frames and the tokens of a record that are in the dataset."""
    if record["status"] != WRITTEN:
        return 0, 0
    frames, *grid = record["shape"]
    frames = record.get("frames_written", frames)
    return frames, frames * int(np.prod(grid))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _anonymous(reason: str, item: Item) -> str:
    """A reason without the files' names, so that equal ones can be counted."""
    for path in item.paths:
        for name in (str(path.absolute()), str(path), path.name):
            reason = reason.replace(name, "FILE").replace(repr(name)[1:-1], "FILE")
    if not item.paths:
        reason = reason.replace(item.id, "FILE")
    # Another machine's folders are left before the name.
    return re.sub(r"[^\s'\"`(]*FILE", "FILE", " ".join(reason.split()))[:160]
