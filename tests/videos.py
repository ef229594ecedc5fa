"""Video files for tests, and an encoder that needs no network."""

import fractions

import av
import numpy as np

from maskflow_jax.data.preparation.assembly import assemble
from maskflow_jax.data.preparation.frame_transforms import FrameTransform
from maskflow_jax.data.preparation.run import Preparation, prepare_items
from maskflow_jax.data.sources.video_files import VideoFolder
from maskflow_jax.io.video_decoding import TimedFrame


class MeanEncoder:
    """A token is the sum of a quarter's pixels, modulo the codebook: 16x16 pixels, 2x2 tokens.

    `calls` counts; `fail_at` raises, or does what it is, at that call.
    """

    def __init__(self, batch_size=4, codebook_size=1000, fail_at=None, error=None):
        self.batch_size, self.calls, self.fail_at, self.error = batch_size, 0, fail_at, error
        self.identity = {
            "name": "mean",
            "sha256": "1" * 64,
            "codebook_size": codebook_size,
            "grid": [2, 2],
            "frame_size": 16,
        }

    def encode(self, frames):
        assert frames.dtype == np.uint8 and frames.shape[1:] == (16, 16, 3)
        self.calls += 1
        if self.calls == self.fail_at:
            self.error()
        quarters = frames.reshape(-1, 2, 8, 2, 8, 3).astype(np.int64).sum(axis=(2, 4, 5))
        return quarters % self.identity["codebook_size"]


def preparation(folder, output, **transform):
    """A folder's videos for `MeanEncoder`; those in folders train and test have that split.

    The digest of an encoded file may not decide about splits in a test: encoders write other bytes
    on other processors.
    """
    encoder = MeanEncoder()
    return Preparation(
        source=VideoFolder(root=folder, split_folders=True),
        transform=FrameTransform(size=16, **transform),
        tokenizer=encoder.identity,
        batch_size=encoder.batch_size,
        output=output,
    )


def moving(num_frames, height=24, width=32, phase=0.0):
    """Smooth gradients that drift, uint8 [F, H, W, 3]."""
    f, y, x = np.mgrid[:num_frames, :height, :width]
    waves = [np.sin(x / 7 + f / 5 + phase), np.cos(y / 6 - f / 4), np.sin((x + y) / 9 - phase)]
    return (127 + 120 * np.stack(waves, -1)).astype(np.uint8)


def write_video(
    path,
    frames,
    fps=10,
    codec="libx264",
    pix_fmt="yuv420p",
    source_format="rgb24",
    rotation=0,
    times=None,
    options=None,
):
    """Writes frames, shown from `times` (in milliseconds) on if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fractions.Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, frame in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(frame, format=source_format)
            if times is not None:
                shown.pts, shown.time_base = times[index], fractions.Fraction(1, 1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return path


def greys(levels, height=16, width=16):
    """A uniform frame for each level: what codecs keep to within a few levels."""
    return np.broadcast_to(
        np.array(levels, np.uint8)[:, None, None, None], (len(levels), height, width, 3)
    ).copy()


def timed(frames, fps):
    return [TimedFrame(frame, index / fps, 1 / fps) for index, frame in enumerate(frames)]


def prepare(prep, encoder=None, *, workers=0, **options):
    """All of the work, and the dataset."""
    listing, work = prep.source.listing(), prep.work_directory()
    prepare_items(
        prep, listing.items, encoder or MeanEncoder(), work, workers=workers, progress=False
    )
    return assemble(prep, listing, work, test_fraction=0.3, **options)


def contents(directory):
    """The bytes of all files in a directory."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
