"""Draws how samplers unmask a window: a row per sampler, a column per frame, masked tokens grey.

python -m launch.unmasking --workdir=runs/maze --out=unmasking.gif
"""

from pathlib import Path

from absl import app, flags, logging

from launch.comparing import parse
from launch.contexts import contexts_from_dataset
from launch.rollouts import load_run
from launch.startup import start
from launch.trajectories import animate, reveal
from maskflow_jax.data.dataset import check_tokenizer
from maskflow_jax.io import video_files
from maskflow_jax.tokenizers.tokenizer import Tokenizer

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the trained run.", required=True)
_OUT = flags.DEFINE_string("out", None, "GIF to write.", required=True)
_SAMPLERS = flags.DEFINE_multi_string(
    "samplers",
    ["mgm:noise=linear", "halton", "fm:num_steps=20", "pyramid:num_steps=12"],
    "Sampler, with settings as in launch.compare_samplers; once for each row.",
)
_VIDEO = flags.DEFINE_integer("video", 0, "Number of the held-out video whose frames are given.")
_FPS = flags.DEFINE_float("fps", 10.0, "Images per second.")
_UPSCALE = flags.DEFINE_integer("upscale", 1, "Whole factor of size.", lower_bound=1)
_DATASET = flags.DEFINE_string("dataset", None, "Dataset directory, if it has moved.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer, if it has moved.")


def main(_) -> None:
    """Samples and draws."""
    start()
    contestants = [parse(text) for text in _SAMPLERS.value]
    run = load_run(Path(_WORKDIR.value))
    tokenizer = Tokenizer.load(_TOKENIZER.value or run.config["data"]["tokenizer"])
    check_tokenizer(tokenizer.identity, run.config["tokenizer"], other_name="trained model")
    frames, number = run.config["sampling"]["context_frames"], _VIDEO.value
    contexts, _ = contexts_from_dataset(run, "test", number + 1, frames, _DATASET.value)
    rows = [(c.label, *reveal(run, c, contexts[number])) for c in contestants]
    out = Path(_OUT.value)
    video_files.write_gif(out, animate(tokenizer, rows, upscale=_UPSCALE.value), _FPS.value)
    logging.info("wrote %s", out)


if __name__ == "__main__":
    app.run(main)
