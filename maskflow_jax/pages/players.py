"""Videos of a page: samples beside the real videos that they continue, as data URIs."""

import base64
import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from maskflow_jax.generation import trained_model
from maskflow_jax.io import video_files
from maskflow_jax.pages.contents import Sample
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.model_files import ModelFolder

_SIDE = 128  # pixels that small frames are enlarged to; the page enlarges them further
_GAP = 2  # pixels between generated and real
_SEARCHED = 1000  # real videos, among which those of samples are looked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """Frames of which the same share was given.

    Attributes:
        start: Number of the first frame.
        stop: Number of the frame after the last.
        share: Share of their tokens that was given.
    """

    start: int
    stop: int
    share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """A sample as the page plays it.

    Attributes:
        sample: The sample.
        source: Its video as a data URI; empty where there is none.
        spans: Its frames, by the share that was given.
        real: Which real video is beside it; empty for none.
    """

    sample: Sample
    source: str
    spans: Sequence[Span]
    real: str = ""


def data_uri(path: Path) -> str:
    """A video file as a data URI."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def make_players(
    samples: Sequence[Sample], model: ModelFolder | None, tokenizer: Tokenizer | None, dataset=None
) -> list[Player]:
    """Makes the players of samples.

    With the tokenizer that made a sample, it is decoded and shown beside the real video that it
    continues, where one is found among the model's validation videos. Without, the video file
    beside its tokens is taken.

    Args:
        samples: The samples.
        model: The model that made them, which knows its dataset; None where it is unknown.
        tokenizer: Its tokenizer; None likewise.
        dataset: Folder of the dataset, if it has moved.
    """
    real = _find_real(samples, model, dataset)
    players = []
    for sample in samples:
        beside = real.get(sample.name)
        if tokenizer is not None and tokenizer.identity["sha256"] == sample.tokenizer:
            source = _encode(sample, tokenizer, None if beside is None else beside[1])
            name = beside[0] if beside else ""
        else:
            source, name = data_uri(sample.video) if sample.video.is_file() else "", ""
        players.append(
            Player(sample=sample, source=source, spans=spans_of(sample.known), real=name)
        )
    return players


def spans_of(known: np.ndarray) -> list[Span]:
    """Puts frames of which the same share was given together.

    Args:
        known: bool [L, h, w].
    """
    spans, start = [], 0
    for share, frames in itertools.groupby(known.mean(axis=(1, 2)).tolist()):
        stop = start + len(list(frames))
        spans.append(Span(start=start, stop=stop, share=share))
        start = stop
    return spans


def _encode(sample: Sample, tokenizer: Tokenizer, real: np.ndarray | None) -> str:
    """A sample, and the real video to its right, as a data URI."""
    frames = tokenizer.decode(sample.tokens)
    if real is not None:
        truth = np.full_like(frames, 255)  # white where it has ended
        truth[: len(real)] = tokenizer.decode(real)
        frames = video_files.side_by_side([frames, truth], gap=_GAP)
    upscale = max(1, _SIDE // frames.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.mp4"
        video_files.write_mp4(path, frames, sample.fps, upscale=upscale)
        return data_uri(path)


def _find_real(
    samples: Sequence[Sample], model: ModelFolder | None, dataset: str | Path | None
) -> dict[str, tuple[str, np.ndarray]]:
    """The real videos of samples: what they are called, and tokens [at most L, h, w]."""
    if model is None:
        return {}
    split = model.config.data.validation_split
    try:
        videos: Iterable[np.ndarray] | None = None
        if dataset is None:
            videos = trained_model.shipped_contexts(model, split)
        if videos is None:
            found = trained_model.find_dataset(model, split, dataset)
            videos = (found[i]["tokens"] for i in range(min(len(found), _SEARCHED)))
    except FileNotFoundError as error:
        if dataset is not None:
            raise
        logging.warning("samples are shown without real videos: %s", error)
        return {}
    wanted = {sample.name: sample for sample in samples if sample.known.any()}
    real: dict[str, tuple[str, np.ndarray]] = {}
    for number, video in enumerate(videos):
        for name, sample in list(wanted.items()):
            start = place_of(sample.tokens, sample.known, video)
            if start is not None:
                text = f"{split} video {number}" + (f" from frame {start}" if start else "")
                real[name] = (text, np.asarray(video[start : start + len(sample.tokens)], np.int32))
                del wanted[name]
    return real


def place_of(tokens: np.ndarray, known: np.ndarray, video: np.ndarray) -> int | None:
    """Finds where in a real video the known tokens of a sample lie.

    Args:
        tokens: Tokens of the sample, [L, h, w].
        known: Its known tokens, bool [L, h, w].
        video: Tokens of the real video, [F, h, w].

    Returns:
        The frame of the real video that is the sample's first one; None if it is nowhere.
    """
    frames = np.flatnonzero(known.any(axis=(1, 2)))
    first, last = frames[0], frames[-1]
    shown = known[first]
    places = np.flatnonzero((video[:, shown] == tokens[first][shown]).all(axis=1)) - first
    for start in places[(places >= 0) & (places + last < len(video))].tolist():
        part = video[start : start + len(tokens)]
        given = known[: len(part)]
        if (part[given] == tokens[: len(part)][given]).all():
            return start
    return None


def previews_of(previews: Mapping[int, Path], most: int) -> list[tuple[int, str]]:
    """Preview videos as data URIs with their steps: all, or `most` of them, the last included."""
    steps = sorted(previews)
    chosen = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    return [(steps[i], data_uri(previews[steps[i]])) for i in chosen]
