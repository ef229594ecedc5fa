"""From a finished work directory to the dataset: splits, manifest, records.

Every item of the listing must be done, whichever process or machine did it. Videos are written in
the order of their ids and records are serialised deterministically, so the dataset has the same
bytes however the work was divided or interrupted. The manifest is written into the dataset.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from maskflow_jax.data.dataset import Video, write_token_dataset
from maskflow_jax.data.preparation.captions import scenes_in_frames
from maskflow_jax.data.preparation.manifest import (
    FILTERED,
    MANIFEST,
    Summary,
    some,
    summarise,
    write_manifest,
)
from maskflow_jax.data.preparation.run import Preparation
from maskflow_jax.data.preparation.work_directory import WRITTEN, PreparationError, WorkDirectory
from maskflow_jax.data.sources.items import Listing
from maskflow_jax.data.splits import choose_splits


def collect_records(
    listing: Listing, work: WorkDirectory, *, min_frames: int = 1
) -> list[dict[str, Any]]:
    """Reads the records of all items, in the listing's order.

    Args:
        listing: Listing of the source.
        work: Work directory.
        min_frames: Length below which a video gets the status "filtered".

    Raises:
        PreparationError: naming the items that are not done.
    """
    found = {item.id: work.record(item) for item in tqdm(listing.items, "records", leave=False)}
    missing = [item_id for item_id, record in found.items() if record is None]
    if missing:
        raise PreparationError(
            f"{len(missing)} of {len(listing.items)} items are not in {work.path}: "
            f"{some(missing)}; run the shards they belong to, or copy their "
            "work directories into this one"
        )
    for item in listing.items:
        record = found[item.id]
        record |= {"split": item.split, "labels": dict(item.labels)}
        if record["status"] == WRITTEN and record["frames"] < min_frames:
            reason = f"fewer frames than min_frames {min_frames}"
            record |= {"status": FILTERED, "reason": reason}
    return [found[item.id] for item in listing.items]


def check_unchanged(listing: Listing, work: WorkDirectory) -> None:
    """Checks that the files are still those whose tokens the work directory holds.

    Raises:
        PreparationError: naming the items whose files have changed or are missing.
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
            f"made, or are missing: {some(changed)}; run the shards they belong to again, or put "
            "the files back"
        )


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
        preparation: Preparation that the directory belongs to.
        listing: Listing of its source.
        work: Work directory.
        test_fraction: Share of the videos to test on where the source does not say which; 0 makes
            no test split.
        segment_frames: Length of the records that longer videos are cut into; the last one of a
            video is left out if it is shorter than `min_frames`.
        overwrite: Whether to replace an existing dataset, once the new one is complete.

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
    with _full_disk_explained(preparation.output):  # to be read if what follows fails
        manifest = write_manifest(work.path / MANIFEST, records, listing)
    if not written:
        summary = summarise(records, listing)
        raise ValueError(f"there is no video to write; {manifest} says why of each. {summary}")
    try:
        splits = choose_splits(written, test_fraction)
    except ValueError as error:
        raise ValueError(f"{error}; {manifest} names all files") from error
    parts = _divide(written, splits, test_fraction)
    with_scenes = _check_scenes(written, segment_frames)
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
            with_scenes=with_scenes,
        )
    return dataclasses.replace(
        summarise(records, listing, preparation.output / MANIFEST),
        videos={split: len(of_split) for split, of_split in parts.items()},
        frames={s: sum(cut.stop - cut.start for _, cut in p) for s, p in parts.items()},
    )


def remove_work(work: WorkDirectory) -> None:
    """Deletes a work directory whose dataset is complete; what cannot be deleted stays."""
    try:
        shutil.rmtree(work.path)
    except OSError as error:
        logging.warning("%s is no longer needed and cannot be deleted: %s", work.path, error)


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
        scenes = [scenes_in_frames(record)] if "scenes" in record["labels"] else []
        yield video_id, tokens[cut], record["fps"], *scenes


def _check_scenes(records: Sequence[dict[str, Any]], segment_frames: int | None) -> bool:
    """Whether the videos have scenes; ValueError if only some do, or theirs are wrong."""
    without = [record["id"] for record in records if "scenes" not in record["labels"]]
    if len(without) == len(records):
        return False
    problems = [f"no scenes of {some(without)}"] if without else []
    if segment_frames is not None:
        problems.append("segment_frames would cut scenes: leave it out")
    for record in records:
        try:
            if "scenes" in record["labels"]:
                scenes_in_frames(record)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            f"{len(problems)} of the videos' scenes are wrong: {some(problems)}; correct the "
            "captions and start the same command again, the tokens are kept"
        )
    return True


def _divide(
    records: list[dict[str, Any]], splits: Mapping[str, str], test_fraction: float
) -> dict[str, list[tuple[dict[str, Any], slice]]]:
    """The parts of the videos by split; notes the split in each record.

    The parts of a single video without a split of its own are divided in time: the last of them are
    for testing.
    """
    alone = len(splits) == 1 and records[0]["split"] is None
    parts = {"train": [], "test": []}
    for record in records:
        record["split"], cuts = splits[record["sha256"]], record["cuts"]
        tested = 0
        if alone and record["split"] == "train" and test_fraction and len(cuts) > 1:
            tested = min(max(round(test_fraction * len(cuts)), 1), len(cuts) - 1)
            record["split"] = "train, test"
            parts["test"] += [(record, cut) for cut in cuts[len(cuts) - tested :]]
            cuts = cuts[: len(cuts) - tested]
        parts[record["split"].partition(",")[0]] += [(record, cut) for cut in cuts]
    return {split: of_split for split, of_split in parts.items() if of_split}


def _segments(frames: int, length: int | None, least: int) -> list[slice]:
    """The parts of a video to write."""
    length = length or frames
    cuts = [slice(start, min(start + length, frames)) for start in range(0, frames, length)]
    return [cut for cut in cuts if cut.stop - cut.start >= least]
