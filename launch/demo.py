"""Long video from the shipped model in a minute, then the same recipe trained from scratch.

    python -m launch.demo               # shows the shipped model, then trains for minutes
    python -m launch.demo --no_train    # stops after the first part
    python -m launch.demo --smoke       # a few training steps, only shows that everything works

leaves in `--out` the page index.html with players of all videos, the videos themselves as .mp4 and
.gif, strips of frames as .png, the numbers (summary.md) and the trained run (run/).
"""

import time
from pathlib import Path

from absl import flags

from configs import maze
from launch import cli
from launch.startup import start

_SMOKE = flags.DEFINE_bool("smoke", False, "A few training steps instead of minutes.")
_NO_TRAIN = flags.DEFINE_bool("no_train", False, "Only shows the shipped model.")
_OUT = flags.DEFINE_string("out", "demo_output", "Folder of the results.")

FULL = {"train_videos": 300, "test_videos": 10, "num_frames": 100}
SMOKE = {"train_videos": 6, "test_videos": 3, "num_frames": 80}


def main(_) -> None:
    """Runs the parts and writes the page."""
    start()
    import maskflow_jax as mf
    from maskflow_jax import demonstration
    from maskflow_jax.data.sources.maze_engine import import_vizdoom

    if not _NO_TRAIN.value:
        import_vizdoom()  # what is missing is told now, not after the first part
    out, seconds = Path(_OUT.value), {}
    demonstration.clear(out)
    started = time.monotonic()
    sections = demonstration.show_shipped(mf.VideoGenerator.load("maze"), out)
    seconds["shipped model"] = time.monotonic() - started
    demonstration.write_page(out, sections, seconds)
    if _NO_TRAIN.value:
        return
    settings = maze.get_config("demo_smoke" if _SMOKE.value else "demo")
    settings.data.directory = str(out / "data")
    started = time.monotonic()
    sizes = SMOKE if _SMOKE.value else FULL
    more, _ = demonstration.train_from_scratch(mf.read_config(settings), out, sizes)
    seconds["from scratch"] = time.monotonic() - started
    demonstration.write_page(out, sections + more, seconds)


if __name__ == "__main__":
    cli.run(main)
