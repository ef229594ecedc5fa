"""From files to a dataset of tokens: what `launch.prepare_data` does, without its flags."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from maskflow_jax.data.dataset import check_free
from maskflow_jax.data.preparation.assembly import (
    Summary,
    assemble,
    check_unchanged,
    collect_records,
    remove_work,
    summarise,
    write_manifest,
)
from maskflow_jax.data.preparation.estimates import estimate
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.preparation.run import Encoder, Preparation, in_shard, prepare_items
from maskflow_jax.data.preparation.work_directory import WorkDirectory
from maskflow_jax.data.sources.items import Listing
from maskflow_jax.data.sources.registry import make_source
from maskflow_jax.tokenizers.tokenizer import Tokenizer

DEFAULT_MIN_FRAMES = 16  # the training window of the configs
_SOURCE_FLAGS = {
    "fps": "source_fps",
    "key": "array_key",
    "split_folders": "split_folders",
    "train_list": "train_list",
    "test_list": "test_list",
}
_TRANSFORM_FLAGS = (
    "fps",
    "frame_interval",
    "min_frames",
    "max_frames",
    "crop",
    "shortest_side",
    "upsample",
    "downsample",
)
_EXCLUSIVE = (
    ("shard", "merge"),
    ("shard", "beam"),
    ("merge", "beam"),
    ("batch_size", "memory_gb"),
)
_ENCODER_FLAGS = ("batch_size", "memory_gb", "dtype")
_DATASET_FLAGS = ("test_fraction", "segment_frames", "overwrite", "keep_work", "max_failed")


def run(values: Mapping[str, Any]) -> int:
    """Does what flags of `launch.prepare_data` say.

    Args:
        values: of all flags, by their names.

    Returns:
        The exit code: 1 if more than `max_failed` of the videos failed, else 0.

    Raises:
        FileExistsError: if the output is taken.
        FileNotFoundError: if the input or the tokenizer is missing.
        PreparationError: if the work cannot go on; what is done is kept.
        ValueError: for settings that are unknown, missing or impossible.
    """
    shard = check_flags(values)
    encoder = load_encoder(values)
    preparation = make_preparation(encoder, values)
    least, segment = preparation.transform.min_frames, values["segment_frames"]
    if segment is not None and segment < least:
        raise ValueError(f"--segment_frames={segment} is below min_frames {least}: raise it")
    workers = values["workers"]
    options = {name: values[name] for name in _DATASET_FLAGS}
    if values["dry_run"]:
        dry_run(preparation, encoder, workers=workers)
        return 0
    if values["merge"]:
        summary = merge(preparation, **options)
    elif shard is not None:
        summary = prepare_shard(preparation, encoder, shard, workers=workers)
    else:
        make = functools.partial(
            load_encoder, {name: values.get(name) for name in ("tokenizer", *_ENCODER_FLAGS)}
        )
        beam = {"beam": values["beam"], "make_encoder": make}
        summary = prepare(preparation, encoder, workers=workers, **beam, **options)
    return int(summary.failed_share > values["max_failed"])


def check_flags(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Checks what can be checked before any work.

    Args:
        values: by the flags' names.

    Returns:
        The shard that is asked for, if one is.

    Raises:
        ValueError: for flags that exclude each other, or values out of range.
    """
    for one, other in _EXCLUSIVE:
        if values.get(one) and values.get(other):
            raise ValueError(f"--{one} and --{other} exclude each other: pass one of them")
    for name in ("test_fraction", "max_failed"):
        if not 0 <= values[name] <= 1:
            raise ValueError(f"--{name}={values[name]}: choose a share from 0 to 1")
    return parse_shard(values["shard"]) if values["shard"] is not None else None


def load_encoder(values: Mapping[str, Any]) -> Encoder:
    """The tokenizer that flags name."""
    given = {n: values[n] for n in _ENCODER_FLAGS if values.get(n) is not None}
    return Tokenizer.load(values["tokenizer"], **given)


def make_preparation(encoder: Encoder, values: Mapping[str, Any]) -> Preparation:
    """Puts together what flags of `launch.prepare_data` say.

    Args:
        encoder: makes the tokens.
        values: by the flags' names; what is None or missing is left to the source's defaults, then
            to `FrameTransform`'s, but that videos are at least 16 frames long.

    Raises:
        ValueError: for settings that are unknown, missing or impossible.
    """
    settings = {field: values.get(flag) for field, flag in _SOURCE_FLAGS.items()}
    for name in ("train_list", "test_list"):
        settings[name] = Path(settings[name]).expanduser() if settings[name] else None
    output = Path(values["output"]).expanduser().resolve()  # a link's target is written, not it
    if values["source"] == "maze":
        settings |= maze_settings(values.get("maze") or [], encoder.identity["frame_size"])
    elif not values.get("input"):
        raise ValueError("--input is missing: name the folder or the dataset that holds the videos")
    elif values["source"] == "tfds":
        settings |= {"dataset": values["input"], "root": values.get("tfds_dir")}
    else:
        root = Path(values["input"]).expanduser()
        if output.is_relative_to(root.resolve()):
            raise ValueError(
                f"--output={output} lies in --input={root}, where its files would be taken for "
                "videos: choose an output outside of it"
            )
        settings |= {"root": root}
    source = make_source(values["source"], settings)
    asked = {n: values[n] for n in _TRANSFORM_FLAGS if values.get(n) is not None}
    if "crop" in asked:
        asked["crop"] = tuple(int(number) for number in asked["crop"])
    size = encoder.identity["frame_size"]
    transform = {"min_frames": DEFAULT_MIN_FRAMES} | dict(source.DEFAULTS) | asked
    return Preparation(
        source=source,
        transform=FrameTransform(size=size, **transform),
        tokenizer=encoder.identity,
        batch_size=encoder.batch_size,
        output=output,
        dtype=values.get("dtype") or "float32",
    )


def maze_settings(assignments: Sequence[str], frame_size: int) -> dict[str, Any]:
    """Settings of the generated mazes from texts such as "num_frames=240".

    Raises:
        ValueError: if a text is no assignment, or a value no number where one is needed.
    """
    settings: dict[str, Any] = {"frame_size": 64 if frame_size <= 64 else 128}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--maze={text}: write name=value, such as num_frames=240")
        kind = {"textures": str, "fps": float}.get(name, int)
        try:
            settings[name] = kind(value)
        except ValueError as error:
            raise ValueError(f"--maze={text}: give a number after the equals sign") from error
    return settings


def parse_shard(text: str) -> tuple[int, int]:
    """Reads "i/n"; ValueError if that is none, or i is none of 0 to n - 1."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--shard={text}: give it as i/n, such as 0/4")
    if int(index) >= int(count):
        raise ValueError(f"--shard={text}: choose i from 0 to n - 1, such as 0/4")
    return int(index), int(count)


def list_items(preparation: Preparation) -> Listing:
    """What the source holds; ValueError if that is nothing."""
    listing = preparation.source.listing()
    logging.info("%d items, %d other files", len(listing.items), len(listing.ignored))
    if not listing.items:
        reasons = {reason for _, reason in listing.ignored}
        raise ValueError(
            f"the source has no videos, and {len(listing.ignored)} files that it does not take "
            f"({', '.join(sorted(reasons))}): check --input and --source"
        )
    return listing


def dry_run(preparation: Preparation, encoder: Encoder, *, workers: int = 0) -> None:
    """Logs what is expected, and writes nothing."""
    expected = estimate(preparation, list_items(preparation), encoder, workers=workers)
    for line in str(expected).splitlines():
        logging.info("%s", line)


def prepare_shard(
    preparation: Preparation, encoder: Encoder, shard: tuple[int, int], *, workers: int = 0
) -> Summary:
    """Does the items of shard i of n; the dataset is made by `merge`.

    Raises:
        PreparationError: if the work cannot go on.
    """
    listing, name = list_items(preparation), "shard-{}-of-{}".format(*shard)
    mine = Listing(items=tuple(in_shard(listing.items, shard)))
    work = preparation.work_directory()
    with work.locked(name):
        throughput = prepare_items(preparation, mine.items, encoder, work, workers=workers)
        records = collect_records(mine, work, min_frames=preparation.transform.min_frames)
        write_manifest(work.path / f"{name}.jsonl", records, mine)
    logging.info("%s", throughput)
    return _log(summarise(records, mine))


def prepare(
    preparation: Preparation,
    encoder: Encoder,
    *,
    workers: int = 0,
    beam: Sequence[str] | None = None,
    make_encoder: Callable[[], Encoder] | None = None,
    **options: Any,
) -> Summary:
    """Does what is not done, then makes the dataset.

    Args:
        preparation: what to do.
        encoder: makes the tokens.
        workers: processes to decode with; 0 decodes in a thread.
        beam: options of a Beam pipeline that does the items instead.
        make_encoder: makes the encoder on the pipeline's workers.
        **options: of `merge`.

    Raises:
        FileExistsError: if the output is taken.
        PreparationError: if the work cannot go on.
        ValueError: if there is nothing to write.
    """
    check_free(preparation.output, overwrite=options.get("overwrite", False))
    listing, work = list_items(preparation), preparation.work_directory()
    with work.locked("all"):
        if beam is None:
            throughput = prepare_items(preparation, listing.items, encoder, work, workers=workers)
            logging.info("%s", throughput)
        else:
            from maskflow_jax.data.preparation.beam import run_pipeline

            run_pipeline(preparation, listing.items, make_encoder, beam)
        summary, keep_work = _assemble(preparation, listing, work, **options)
    _clear(work, keep_work=keep_work)
    return summary


def merge(preparation: Preparation, **options: Any) -> Summary:
    """Makes the dataset of what shards have done.

    Args:
        preparation: what they did.
        **options: `test_fraction`, `segment_frames` and `overwrite`, as `assemble` takes them;
            `keep_work` keeps the work directory; `max_failed` is the share of failed items from
            which on it is kept in any case.

    Raises:
        FileExistsError: if the output is taken.
        PreparationError: if items are missing, or have changed since.
        ValueError: if there is nothing to write.
    """
    check_free(preparation.output, overwrite=options.get("overwrite", False))
    listing, work = list_items(preparation), preparation.work_directory()
    with work.locked("all"):
        check_unchanged(listing, work)
        summary, keep_work = _assemble(preparation, listing, work, **options)
    _clear(work, keep_work=keep_work)
    return summary


def _assemble(
    preparation: Preparation,
    listing: Listing,
    work: WorkDirectory,
    *,
    keep_work: bool = False,
    max_failed: float = 0.0,
    **options: Any,
) -> tuple[Summary, bool]:
    """Writes the dataset; returns its summary, and whether to keep the work directory."""
    summary = _log(assemble(preparation, listing, work, **options))
    logging.info("wrote %s", preparation.output)
    return summary, keep_work or summary.failed_share > max_failed


def _clear(work: WorkDirectory, *, keep_work: bool) -> None:
    """Removes the work directory, whose lock is released: some file systems insist on that."""
    if keep_work:
        logging.info("kept %s", work.path)
    else:
        remove_work(work)


def _log(summary: Summary) -> Summary:
    for line in str(summary).splitlines():
        logging.info("%s", line)
    return summary
