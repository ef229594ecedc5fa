r"""Reports what a tokenizer keeps of videos: PSNR, SSIM, codes used, and real | reconstructed.

    python -m launch.reconstruct --tokenizer=tokenizers/vq_f8 --videos=my_videos --out=reports/f8
    python -m launch.reconstruct --tokenizer=maze --videos=maze --out=reports/maze

takes the middle square of each frame at the tokenizer's size, prints a table, and writes
`report.json` and a few videos to look at. Needs scikit-image (`pip install ".[report]"`).
"""

from pathlib import Path

from absl import app, flags

from launch import reconstructing
from launch.startup import start
from maskflow_jax.tokenizers.tokenizer import DTYPES, Tokenizer

_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer: a folder or a name.", required=True)
_VIDEOS = flags.DEFINE_string("videos", None, "A file, a folder, or maze.", required=True)
_SOURCE = flags.DEFINE_string("source", "video_files", "What it is, as for launch.prepare_data.")
_SOURCE_FPS = flags.DEFINE_float("source_fps", None, "Frames per second of images and arrays.")
_ARRAY_KEY = flags.DEFINE_string("array_key", None, "Array of npz files, or TFDS feature.")
_OUT = flags.DEFINE_string("out", None, "Folder for the report.", required=True)
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 64, "Videos to take.", lower_bound=1)
_NUM_FRAMES = flags.DEFINE_integer("num_frames", 64, "First frames of each.", lower_bound=1)
_NUM_SHOWN = flags.DEFINE_integer("num_shown", 4, "Videos to write.", lower_bound=0)
_MEMORY_GB = flags.DEFINE_float("memory_gb", None, "Of each device for frames; 4 by default.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", DTYPES, "What the tokenizer computes in.")


def main(_) -> None:
    """Measures and reports."""
    start()
    tokenizer = Tokenizer.load(_TOKENIZER.value, memory_gb=_MEMORY_GB.value, dtype=_DTYPE.value)
    contents = reconstructing.report(
        tokenizer,
        _VIDEOS.value,
        Path(_OUT.value),
        num_videos=_NUM_VIDEOS.value,
        num_frames=_NUM_FRAMES.value,
        num_shown=_NUM_SHOWN.value,
        kind=_SOURCE.value,
        settings={"fps": _SOURCE_FPS.value, "key": _ARRAY_KEY.value},
    )
    print(reconstructing.as_table(contents))


if __name__ == "__main__":
    app.run(main)
