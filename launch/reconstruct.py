r"""Reports how well a tokenizer reconstructs videos: PSNR, SSIM, codes used, real | reconstructed.

    python -m launch.reconstruct --tokenizer=tokenizers/vq_f8 --input=my_videos --out=reports/f8
    python -m launch.reconstruct --tokenizer=maze --source=my_way_home --out=reports/maze

takes the middle square of each frame at the tokenizer's size, prints a table, and writes
`report.json` and a few videos to look at. Needs scikit-image (`pip install ".[report]"`).
"""

from absl import flags

from launch import cli
from launch.startup import start
from maskflow_jax.data.sources.registry import read_settings
from maskflow_jax.evaluation import reconstruction
from maskflow_jax.tokenizers.tokenizer import DTYPES, Tokenizer

_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer: a folder or a name.", required=True)
_INPUT = flags.DEFINE_string("input", None, "A file, a folder, or a name for tfds.")
_SOURCE = flags.DEFINE_string("source", "video_files", "Kind of the input, as in prepare_data.")
_SOURCE_FPS = flags.DEFINE_float("source_fps", None, "Frames per second of images and arrays.")
_ARRAY_KEY = flags.DEFINE_string("array_key", None, "Array of npz files, or TFDS feature.")
_SETTING = flags.DEFINE_multi_string("source_setting", [], "name=value: a setting of the source.")
_OUT = flags.DEFINE_string("out", None, "Folder of the report.", required=True)
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 64, "Number of videos.", lower_bound=1)
_NUM_FRAMES = flags.DEFINE_integer("num_frames", 64, "First frames of each.", lower_bound=1)
_NUM_SHOWN = flags.DEFINE_integer("num_shown", 4, "Number of videos to write.", lower_bound=0)
_MEMORY_GB = flags.DEFINE_float("memory_gb", None, "Memory of each device for frames.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", DTYPES, "Type the tokenizer computes in.")


def main(_) -> None:
    """Measures and reports."""
    start()
    settings = {"fps": _SOURCE_FPS.value, "key": _ARRAY_KEY.value}
    settings |= read_settings(_SOURCE.value, _SETTING.value)
    videos = reconstruction.find_videos(
        _SOURCE.value, _INPUT.value, settings, num_videos=_NUM_VIDEOS.value
    )
    contents = reconstruction.report_on(
        Tokenizer.load(_TOKENIZER.value, memory_gb=_MEMORY_GB.value, dtype=_DTYPE.value),
        videos,
        _OUT.value,
        num_frames=_NUM_FRAMES.value,
        num_shown=_NUM_SHOWN.value,
    )
    print(reconstruction.as_table(contents))


if __name__ == "__main__":
    cli.run(main)
