"""The whole path once, in minutes on a laptop: maze video in, long generated video out.

    python -m launch.demo            # at most 10 minutes on 2 cores
    python -m launch.demo --smoke    # under 90 seconds, only shows that everything works

renders walks through a maze, turns them into tokens, trains a small model on clips of a few frames,
rolls it out to ten times that length, and leaves in ./demo_output the video (demo.mp4, demo.gif),
a strip of frames (strip.png), the numbers (summary.md) and the trained run (run/), which
`launch.sample --workdir=demo_output/run` takes.
"""

import shutil
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from configs import maze
from launch import demo_report
from launch.rollouts import extend, load_run, make_chunk_sampler
from launch.startup import start
from launch.tokenizing import write_dataset
from launch.training import train_from_config
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.sampling.rollout import Plan
from maskflow_jax.sampling.samplers import SamplerConfig, plan_rollout
from maskflow_jax.tokenizers.tokenizer import Tokenizer

_SMOKE = flags.DEFINE_bool("smoke", False, "Seconds of training instead of minutes.")
_OUT = flags.DEFINE_string("out", "demo_output", "Folder of the results.")

NUM_VIDEOS = 3
EXTENSION = 10  # length of the rollout over the training window
MARKER = ".maskflow_demo"  # in folders that a demo may clear


def roll_out(run_dir: Path, videos) -> tuple[np.ndarray, Plan, dict[str, float]]:
    """Continues held-out videos to ten windows: tokens [B, L, h, w], plan, seconds and rate."""
    run = load_run(run_dir)
    sampling, chunk_size = run.config["sampling"], run.config["data"]["clip_frames"]
    sampler, context_frames = SamplerConfig(**sampling["sampler"]), sampling["context_frames"]
    plan = plan_rollout(
        sampler,
        video_length=EXTENSION * chunk_size,
        chunk_size=chunk_size,
        context_frames=context_frames,
    )
    logging.info("rolling out %d videos: %s", NUM_VIDEOS, plan)
    context = np.stack([videos[index]["tokens"][:context_frames] for index in range(NUM_VIDEOS)])
    chunks = extend(
        make_chunk_sampler(run.graphdef, run.config, sampler, context_frames),
        run.params,
        context.astype(np.int32),
        plan,
        mask_id=run.mask_id,
        seed=0,
        progress="rollout",
    )
    arrived = [(chunk, time.monotonic()) for chunk in chunks]
    # The context comes first, and the first chunk is late by the time of its compilation.
    (_, started), (_, compiled), (_, ended) = arrived[0], arrived[1], arrived[-1]
    frames = sum(chunk.shape[0] * chunk.shape[1] for chunk, _ in arrived[2:])
    rates = {"first_chunk": compiled - started, "frames_per_second": frames / (ended - compiled)}
    return np.concatenate([chunk for chunk, _ in arrived], axis=1), plan, rates


def clear(out: Path) -> None:
    """Removes what an earlier demo left; raises FileExistsError for anybody else's folder."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise FileExistsError(f"{out} is not empty and not a demo's; choose another --out")
    for name in ("run", "data"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def main(_) -> None:
    """Runs the stages and reports."""
    start()
    out = Path(_OUT.value)
    clear(out)
    settings = maze.get_config("demo_smoke" if _SMOKE.value else "demo").to_dict()
    settings["data"]["directory"] = str(out / "data")
    seconds = {}

    def timed(stage: str, function, *arguments):
        started = time.monotonic()
        result = function(*arguments)
        seconds[stage] = time.monotonic() - started
        logging.info("%s: %.0f s", stage, seconds[stage])
        return result

    timed("render and tokenise", write_dataset, settings["data"])
    if not timed("train", train_from_config, settings, out / "run"):
        raise SystemExit("the demo was stopped while training; start it again")
    videos = read_token_dataset(out / "data", "test")
    tokens, plan, rates = timed("roll out", roll_out, out / "run", videos)
    tokenizer = Tokenizer.load(settings["data"]["tokenizer"])
    timed("decode and write", demo_report.write_videos, out, tokens, videos, plan, tokenizer)
    demo_report.write_summary(out, plan, rates, seconds, NUM_VIDEOS)


if __name__ == "__main__":
    app.run(main)
