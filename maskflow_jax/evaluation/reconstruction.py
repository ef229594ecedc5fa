"""How well a tokenizer reconstructs frames: PSNR, SSIM, and the share of its codebook in use.

`report_on` passes videos through a tokenizer and back and writes a report.

PSNR is 10 log10(255^2 / E) with the squared error E averaged over a frame's pixels and colours; it
is reported as the mean over frames, and from E over all frames together, which one bad frame moves
more. SSIM is scikit-image's, with the Gaussian window of its authors, as the mean over frames.

Source: Wang et al. 2004 (SSIM).
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from maskflow_jax.data.sources.registry import make_source, source_fields
from maskflow_jax.io import files, video_files
from maskflow_jax.io.video_decoding import TimedFrame, iterate_frames
from maskflow_jax.tokenizers.psnr import psnr

Video = tuple[str, np.ndarray, float]
Opener = Callable[[], Iterator[TimedFrame]]

SSIM_WINDOW = 11  # pixels along a side
EXACT_PSNR = 100.0  # stands for a frame without any error, whose PSNR is infinite


def frame_psnr(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """PSNR of each frame in dB, at most `EXACT_PSNR`.

    Args:
        real: uint8 [F, H, W, 3].
        decoded: uint8 [F, H, W, 3].

    Returns:
        float64 [F].
    """
    return psnr_of(_squared_errors(real, decoded))


def psnr_of(error: np.ndarray | float) -> np.ndarray:
    """PSNR in dB of a mean squared error of uint8 pixels, at most `EXACT_PSNR`."""
    least = 255**2 / 10 ** (EXACT_PSNR / 10)
    return psnr(np.maximum(error, least), value_range=255.0)


def frame_ssim(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """SSIM of each frame, over its colours.

    Args:
        real: uint8 [F, H, W, 3], sides of at least 11 pixels.
        decoded: uint8 [F, H, W, 3].

    Returns:
        float64 [F].

    Raises:
        ImportError: if scikit-image is missing.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError(
            "SSIM is scikit-image's, which is not installed: pip install "
            "'maskflow_jax[report]' (or '.[report]' in a checkout)"
        ) from error
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array(
        [
            structural_similarity(a, b, channel_axis=-1, data_range=255, **settings)
            for a, b in zip(real, decoded, strict=True)
        ]
    )


def code_statistics(counts: np.ndarray) -> dict[str, float]:
    """How evenly codes are used.

    Args:
        counts: int [K], how often each was chosen.

    Returns:
        `codes_used`, `code_usage` (their share of all) and `perplexity` (exp of the entropy: the
        number of codes that, used evenly, would carry as much information).
    """
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes_used": int(np.count_nonzero(counts)),
        "code_usage": float(np.mean(counts > 0)),
        "perplexity": float(np.exp(-np.sum(shares * np.log(shares)))),
    }


class Reconstruction:
    """Figures gathered over videos.

    Attributes:
        videos: Number of videos so far.
    """

    def __init__(self, codebook_size: int):
        self.videos = 0
        self._errors, self._psnr, self._ssim = [], [], []
        self._counts = np.zeros(codebook_size, np.int64)

    def add(self, real: np.ndarray, tokens: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        """Takes a video in.

        Args:
            real: uint8 [F, H, W, 3].
            tokens: int [F, h, w].
            decoded: uint8 [F, H, W, 3].

        Returns:
            The video's own `psnr` and `ssim`.
        """
        psnr, ssim = frame_psnr(real, decoded), frame_ssim(real, decoded)
        self.videos += 1
        self._errors.append(_squared_errors(real, decoded))
        self._psnr.append(psnr)
        self._ssim.append(ssim)
        self._counts += np.bincount(tokens.reshape(-1), minlength=len(self._counts))
        return {"psnr": float(psnr.mean()), "ssim": float(ssim.mean())}

    def summary(self) -> dict[str, float]:
        """The figures over all videos: every frame counts the same."""
        errors = np.concatenate(self._errors)
        return {
            "videos": self.videos,
            "frames": len(errors),
            "psnr": float(np.concatenate(self._psnr).mean()),
            "psnr_of_all_pixels": float(psnr_of(errors.mean())),
            "ssim": float(np.concatenate(self._ssim).mean()),
            **code_statistics(self._counts),
        }


def report_on(
    tokenizer: Any,
    videos: list[tuple[str, Opener]],
    out: str | Path,
    *,
    num_frames: int = 64,
    num_shown: int = 4,
) -> dict[str, Any]:
    """Measures a tokenizer on videos; writes `report.json` and real | reconstructed videos.

    Args:
        tokenizer: Tokenizer of any kind.
        videos: Name of each video and a function that opens its frames, as `find_videos` returns.
        out: Folder to write.
        num_frames: Number of first frames of each video to take.
        num_shown: Number of videos to write.

    Returns:
        The contents of `report.json`: `tokenizer`, the figures of `Reconstruction.summary`,
        `by_video`, and `skipped` with the reason for each file that could not be read.

    Raises:
        ImportError: if scikit-image is missing.
        ValueError: if no video could be read.
    """
    out, skipped, by_video = Path(out), [], []
    figures = Reconstruction(tokenizer.identity["codebook_size"])
    read = _read(videos, tokenizer.identity["frame_size"], num_frames, skipped)
    for index, (name, frames, fps) in enumerate(tqdm(read, "videos", len(videos), unit="video")):
        tokens = tokenizer.encode(frames)
        decoded = tokenizer.decode(tokens)
        by_video.append(
            {"video": name, "frames": len(frames), **figures.add(frames, tokens, decoded)}
        )
        if index < num_shown:
            pair = video_files.side_by_side([frames, decoded])
            upscale = video_files.upscale_for(frames.shape[1])
            video_files.write_mp4(out / f"video_{index:03d}.mp4", pair, fps, upscale=upscale)
    if not by_video:
        reasons = "\n  ".join(f"{entry['video']}: {entry['reason']}" for entry in skipped)
        raise ValueError(f"no video could be read:\n  {reasons}")
    contents = {
        "tokenizer": tokenizer.identity,
        **figures.summary(),
        "by_video": by_video,
        "skipped": skipped,
    }
    files.write_text(out / "report.json", json.dumps(contents, indent=2) + "\n")
    return contents


def as_table(contents: Mapping[str, Any]) -> str:
    """The figures of a report as a table in Markdown."""
    size = contents["tokenizer"]["codebook_size"]
    rows = [
        ("videos, frames", f"{contents['videos']}, {contents['frames']}"),
        ("PSNR, mean over frames", f"{contents['psnr']:.2f} dB"),
        ("PSNR of all pixels together", f"{contents['psnr_of_all_pixels']:.2f} dB"),
        ("SSIM, mean over frames", f"{contents['ssim']:.4f}"),
        ("codes used", f"{contents['codes_used']} of {size} ({contents['code_usage']:.1%})"),
        ("perplexity", f"{contents['perplexity']:.1f}"),
    ]
    if contents["skipped"]:
        rows.append(("files skipped", str(len(contents["skipped"]))))
    head = [("tokenizer", contents["tokenizer"]["name"]), ("---", "---")]
    return "\n".join(f"| {name} | {value} |" for name, value in [*head, *rows])


def find_videos(
    source: str,
    input: str | Path | None,
    settings: Mapping[str, Any] | None = None,
    *,
    num_videos: int | None = None,
) -> list[tuple[str, Opener]]:
    """Lists videos to report on.

    Args:
        source: Name of a source (`data.sources.registry.SOURCES`).
        input: Video file, folder, or name of a TFDS dataset; None for rendered videos.
        settings: Other fields of the source.
        num_videos: Number of videos to take, all by default.

    Returns:
        Name of each video and a function that opens its frames.

    Raises:
        FileNotFoundError: if there are no videos.
        ValueError: if there is no such source or setting.
    """
    if input is not None and source == "video_files" and Path(input).is_file():
        return [(str(input), functools.partial(iterate_frames, Path(input)))]
    place = "dataset" if source == "tfds" else "root"
    if input is not None:
        settings = {**(settings or {}), place: input if source == "tfds" else Path(input)}
    elif place in source_fields(source):
        raise ValueError(f"source {source} needs an input: the file or folder that it reads")
    made = make_source(source, settings or {})
    items = made.listing().items
    if not items:
        raise FileNotFoundError(
            f"no videos at {input}: choose a file, a folder, or the source whose files they are"
        )
    return [(item.id, functools.partial(made.open, item)) for item in items[:num_videos]]


def _read(
    videos: list[tuple[str, Opener]],
    frame_size: int,
    num_frames: int,
    skipped: list[dict[str, str]],
) -> Iterator[Video]:
    """Yields the videos that can be read; the others are added to `skipped`."""
    for name, opens in videos:
        try:
            timed = list(itertools.islice(opens(), num_frames))
        except (ValueError, OSError) as error:
            logging.warning("skipped: %s", error)
            skipped.append({"video": name, "reason": str(error)})
            continue
        seconds = timed[-1].start - timed[0].start
        fps = (len(timed) - 1) / seconds if seconds > 0 else 1.0
        pixels = np.stack([frame.pixels for frame in timed])
        yield name, video_files.square_frames(pixels, frame_size), fps


def _squared_errors(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame: float64 [F]."""
    # Frame by frame: float64 copies of a whole video would be eight times its size.
    pairs = zip(real, decoded, strict=True)
    return np.array([np.mean((a.astype(np.float64) - b) ** 2) for a, b in pairs])
