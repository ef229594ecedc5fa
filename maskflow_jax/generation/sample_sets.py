"""Sets of samples in folders: read back as tokens, and checked to be of one model."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from maskflow_jax.generation.sample_folder import SETTINGS, digest
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.sampling.types import Plan
from maskflow_jax.tokenizers.batching import check_tokens

PATTERN = "sample_*.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SampleSet:
    """The samples of a folder.

    Attributes:
        tokens: int32 [N, L, h, w].
        known: Tokens that were given, bool [L, h, w].
    """

    tokens: np.ndarray
    known: np.ndarray


def read_samples(folder: str | Path, generator: VideoGenerator) -> SampleSet:
    """Reads the samples of a folder, as `SampleFolder` wrote them.

    Args:
        folder: The folder.
        generator: The model that made them.

    Raises:
        FileNotFoundError: If there are no samples.
        ValueError: If a file is damaged, has another length than the first one, or was made by
            another tokenizer or model.
    """
    folder = Path(folder)
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise FileNotFoundError(
            f"no samples in {folder}: expected files such as sample_00000.npz, which sampling "
            "writes"
        )
    _check_model(folder, generator)
    tokens, known = [], None
    for path in paths:
        try:
            with np.load(path) as arrays:
                video, known = arrays["tokens"], arrays["known"]
                made_by = str(arrays["tokenizer"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{path} is no sample or damaged: {error}; sample it again") from error
        identity = generator.tokenizer.identity
        if made_by != identity["sha256"]:
            raise ValueError(
                f"{path} was made with another tokenizer ({made_by[:12]}) than this model's "
                f"({identity['sha256'][:12]}); name the folder of this model's samples"
            )
        check_tokens(video, identity)
        if tokens and video.shape != tokens[0].shape:
            raise ValueError(
                f"{path} has tokens {video.shape}, {paths[0].name} {tokens[0].shape}; one "
                "evaluation takes samples of one length"
            )
        tokens.append(video.astype(np.int32))
    return SampleSet(tokens=np.stack(tokens), known=np.asarray(known, bool))


def seams(plan: Plan) -> tuple[int, ...]:
    """Numbers of the frames with which the new frames of each window after the first begin."""
    starts, at = [], plan.known_at_start
    for window in plan.windows:
        starts.append(at)
        at += window.finished
    return tuple(start for start in starts[1:] if 0 < start < plan.video_length)


def relative(folder: Path, out: Path) -> str:
    """The path of a folder from another one, so that both can move together."""
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _check_model(folder: Path, generator: VideoGenerator) -> None:
    """Raises ValueError if a folder's settings name other weights."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {SETTINGS}, which says what model its samples are of; name a folder "
            "that sampling wrote"
        )
    there, here = json.loads(path.read_text())["weights"], digest(generator.model.params)
    if there != here:
        raise ValueError(
            f"the samples in {folder} are of another model or another step (weights {there[:12]}, "
            f"this model's {here[:12]}); name the folder of this model's samples"
        )
