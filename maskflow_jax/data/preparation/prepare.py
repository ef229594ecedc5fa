"""From a source of videos to a dataset of tokens: `prepare_dataset`.

    prepare_dataset(
        source="video_files", input="my_videos", output="data/mine", tokenizer="maze",
        frames={"fps": 8}, settings=PreparationSettings(test_fraction=0.1),
    )

Finished items are kept in a work directory beside the output, and the same call goes on from there
after an interruption. Several machines share the work by shards or by a Beam pipeline.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from maskflow_jax.data.dataset import check_free, read_token_dataset, write_token_dataset
from maskflow_jax.data.preparation.assembly import (
    assemble,
    check_unchanged,
    collect_records,
    remove_work,
)
from maskflow_jax.data.preparation.captions import with_captions
from maskflow_jax.data.preparation.dataset_card import write_dataset_card
from maskflow_jax.data.preparation.estimates import Estimate, estimate
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.preparation.manifest import Summary, summarise, write_manifest
from maskflow_jax.data.preparation.run import Encoder, Preparation, in_shard, prepare_items
from maskflow_jax.data.preparation.settings import PreparationSettings, parse_shard
from maskflow_jax.data.preparation.work_directory import WorkDirectory
from maskflow_jax.data.sources.items import Listing, describe
from maskflow_jax.data.sources.registry import make_source, source_fields
from maskflow_jax.tokenizers.tokenizer import Tokenizer

DEFAULT_MIN_FRAMES = 16  # training window of the configs
_DEFAULTS = PreparationSettings()


def prepare_dataset(
    *,
    source: str | Any,
    output: str | Path,
    tokenizer: str | Path,
    input: str | Path | None = None,
    source_settings: Mapping[str, Any] | None = None,
    frames: Mapping[str, Any] | None = None,
    settings: PreparationSettings = _DEFAULTS,
) -> Summary:
    """Turns videos into a dataset of tokens.

    Args:
        source: Name of a source (`data.sources.registry.SOURCES`), or a source.
        output: Directory of the new dataset. The work directory has its name and ".work".
        tokenizer: Directory or name of the tokenizer.
        input: Folder or file that the source reads; for "tfds" the name of the dataset; None for
            sources that render their videos.
        source_settings: Other fields of the source.
        frames: Fields of `FrameTransform` but the size; by default the source's own defaults, and
            videos of at least 16 frames.
        settings: Settings of the dataset and of the work.

    Returns:
        What became of each file; `failed` names the items that could not be used.

    Raises:
        FileExistsError: if the output is taken.
        FileNotFoundError: if the input or the tokenizer is missing.
        ImportError: if a package that the source needs is missing.
        PreparationError: if the work cannot go on; finished items are kept.
        ValueError: for settings that are unknown, missing or impossible.
    """
    output = Path(output).expanduser().resolve()  # a link's target is written, not the link
    if not settings.shard:
        check_free(output, overwrite=settings.overwrite)
    load = _tokenizer_loader(tokenizer, settings)
    if (of_tokens := _token_source(source, input, source_settings)) is not None:
        return _copy_tokens(of_tokens, output, load().identity, frames or {}, settings)
    encoder = load()
    preparation = make_preparation(
        source, input, output, encoder, source_settings, frames, dtype=settings.dtype
    )
    least, segment = preparation.transform.min_frames, settings.segment_frames
    if segment is not None and segment < least:
        raise ValueError(f"segment_frames is {segment}, below min_frames {least}: raise it")
    if settings.shard is not None:
        return _prepare_shard(preparation, encoder, parse_shard(settings.shard), settings.workers)
    listing = list_items(preparation, settings.captions)
    work = preparation.work_directory()
    with work.locked("all"):
        if settings.merge:
            check_unchanged(listing, work)
        elif settings.beam is not None:
            from maskflow_jax.data.preparation.beam import run_pipeline

            run_pipeline(preparation, listing.items, load, settings.beam)
        else:
            throughput = prepare_items(
                preparation, listing.items, encoder, work, workers=settings.workers
            )
            logging.info("%s", throughput)
        options = ("test_fraction", "segment_frames", "overwrite")
        summary = assemble(
            preparation, listing, work, **{name: getattr(settings, name) for name in options}
        )
    _finish(summary, preparation.output)
    _clear(work, keep=settings.keep_work or summary.failed_share > settings.max_failed)
    return summary


def estimate_dataset(
    *,
    source: str | Any,
    output: str | Path,
    tokenizer: str | Path,
    input: str | Path | None = None,
    source_settings: Mapping[str, Any] | None = None,
    frames: Mapping[str, Any] | None = None,
    settings: PreparationSettings = _DEFAULTS,
) -> Estimate:
    """Estimates what `prepare_dataset` would make and how long it would take; writes nothing.

    Args:
        source: As for `prepare_dataset`, like all arguments.
        output: Directory of the dataset.
        tokenizer: Directory or name of the tokenizer.
        input: Folder or file that the source reads.
        source_settings: Other fields of the source.
        frames: Fields of `FrameTransform`.
        settings: Settings of the dataset and of the work.

    Raises:
        ValueError: as `prepare_dataset` does, or for a source of tokens, which needs no work.
    """
    if _token_source(source, input, source_settings) is not None:
        raise ValueError(f"source {source} holds tokens: there is nothing to decode or encode")
    encoder = _tokenizer_loader(tokenizer, settings)()
    output = Path(output).expanduser().resolve()
    preparation = make_preparation(source, input, output, encoder, source_settings, frames)
    return estimate(preparation, list_items(preparation), encoder, workers=settings.workers)


def make_preparation(
    source: str | Any,
    input: str | Path | None,
    output: Path,
    encoder: Encoder,
    source_settings: Mapping[str, Any] | None = None,
    frames: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
) -> Preparation:
    """Puts together what is to be done.

    Raises:
        ValueError: for settings that are unknown, missing or impossible.
    """
    size = encoder.identity["frame_size"]
    if isinstance(source, str):
        given = dict(source_settings or {})
        if "frame_size" in source_fields(source) and given.get("frame_size") is None:
            given["frame_size"] = size
        source = _make_source(source, input, given)
    root = getattr(source, "root", None)
    if root is not None and output.is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"the output {output} lies in the input {root}, where its files would be taken for "
            "videos: choose an output outside of it"
        )
    given = {name: value for name, value in (frames or {}).items() if value is not None}
    fields = {field.name for field in dataclasses.fields(FrameTransform)} - {"size"}
    if unknown := given.keys() - fields:
        raise ValueError(
            f"frames takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(fields))}"
        )
    if "crop" in given:
        given["crop"] = _whole_numbers("crop", given["crop"])
    transform = {"min_frames": DEFAULT_MIN_FRAMES} | dict(source.DEFAULTS) | given
    return Preparation(
        source=source,
        transform=FrameTransform(size=size, **transform),
        tokenizer=encoder.identity,
        batch_size=encoder.batch_size,
        output=output,
        dtype=dtype,
    )


def list_items(preparation: Preparation, captions: str | None = None) -> Listing:
    """Lists what the source holds, with the scenes in a file of captions if there is one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the source holds nothing, or the captions are wrong.
    """
    listing = preparation.source.listing()
    logging.info("%d items, %d other files", len(listing.items), len(listing.ignored))
    if not listing.items:
        reasons = {reason for _, reason in listing.ignored}
        raise ValueError(
            f"the source has no videos, and {len(listing.ignored)} files that it does not take "
            f"({', '.join(sorted(reasons))}): check input and source"
        )
    return with_captions(listing, captions) if captions else listing


def _make_source(name: str, input: str | Path | None, settings: Mapping[str, Any]) -> Any:
    """The source of a name; `input` is its folder, its file or its dataset's name."""
    fields = source_fields(name)
    settings = {
        field: Path(value).expanduser() if value and field.endswith(("_list", "_file")) else value
        for field, value in settings.items()
    }
    place = "dataset" if "dataset" in fields else "root"
    if place not in fields:
        if input is not None:
            raise ValueError(f"source {name} makes its videos itself: leave input out")
    elif input is None:
        raise ValueError(f"source {name} needs an input: the folder or file that it reads")
    elif settings.get(place) is not None:
        raise ValueError(f"source {name} has an input and a {place}: leave the {place} out")
    else:
        settings[place] = input if place == "dataset" else Path(input).expanduser()
    return make_source(name, settings)


def _whole_numbers(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in values)
    except ValueError as error:
        raise ValueError(
            f"{name} is {','.join(map(str, values))}: give left, top, width and height as whole "
            "numbers of pixels"
        ) from error


def _token_source(
    source: str | Any, input: str | Path | None, settings: Mapping[str, Any] | None
) -> Any | None:
    """The source if its videos are tokens already, else None."""
    if source == "hdf5_tokens":
        source = _make_source(source, input, settings or {})
    return source if hasattr(source, "token_videos") else None


def _tokenizer_loader(tokenizer: str | Path, settings: PreparationSettings) -> functools.partial:
    """A function that loads the tokenizer, here or on the workers of a pipeline."""
    names = ("batch_size", "memory_gb", "dtype")
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    return functools.partial(Tokenizer.load, tokenizer, **given)


def _copy_tokens(
    source: Any,
    output: Path,
    tokenizer: dict[str, Any],
    frames: Mapping[str, Any],
    settings: PreparationSettings,
) -> Summary:
    """Writes videos that are tokens already as a dataset."""
    given = {name: value for name, value in frames.items() if value is not None}
    if others := sorted(given.keys() - {"min_frames"}):
        raise ValueError(f"the source holds tokens: {', '.join(others)} cannot change them")
    for name in ("segment_frames", "shard", "merge", "beam", "captions"):
        if getattr(settings, name):
            raise ValueError(f"the source holds tokens, which are copied at once: leave {name} out")
    rule = dict(source.DEFAULTS) | given
    videos = source.token_videos(tokenizer, **rule, test_fraction=settings.test_fraction)
    described = describe(source)
    record = {"name": described.pop("name"), "fps": source.fps, "file": Path(source.root).name}
    record |= {"settings": described, "test_fraction": settings.test_fraction}
    splits = list(videos)
    write_token_dataset(
        output, videos, tokenizer=tokenizer, source=record, overwrite=settings.overwrite
    )
    lengths = {split: read_token_dataset(output, split).num_frames for split in splits}
    num_frames = {split: int(of.sum()) for split, of in lengths.items()}
    num_videos = {split: len(of) for split, of in lengths.items()}
    rows, columns = tokenizer["grid"]
    summary = Summary(
        counts={"written": sum(num_videos.values())},
        reasons={},
        videos=num_videos,
        frames=num_frames,
        duplicates=0,
        tokens=sum(num_frames.values()) * rows * columns,
    )
    _finish(summary, output)
    return summary


def _prepare_shard(
    preparation: Preparation, encoder: Encoder, shard: tuple[int, int], workers: int
) -> Summary:
    """Does one part of the items; merging makes the dataset."""
    listing, name = list_items(preparation), "shard-{}-of-{}".format(*shard)
    mine = Listing(items=tuple(in_shard(listing.items, shard)))
    work = preparation.work_directory()
    with work.locked(name):
        throughput = prepare_items(preparation, mine.items, encoder, work, workers=workers)
        records = collect_records(mine, work, min_frames=preparation.transform.min_frames)
        manifest = write_manifest(work.path / f"{name}.jsonl", records, mine)
    logging.info("%s", throughput)
    summary = summarise(records, mine, manifest)
    _log(summary)
    return summary


def _clear(work: WorkDirectory, *, keep: bool) -> None:
    """Removes the work directory, whose lock must be released first on some file systems."""
    if keep:
        logging.info("kept %s", work.path)
    else:
        remove_work(work)


def _finish(summary: Summary, output: Path) -> None:
    """Writes the card of a complete dataset, and says what it is."""
    write_dataset_card(output, summary)
    _log(summary)
    logging.info("wrote %s", output)


def _log(summary: Summary) -> None:
    for line in str(summary).splitlines():
        logging.info("%s", line)
