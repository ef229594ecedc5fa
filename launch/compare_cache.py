"""What a cached context costs and saves: held-out cross-entropy, and seconds of a chunk.

    python -m launch.compare_cache --workdir=runs/maze --workdir=runs/maze_isolated --out=cache

measures trained runs of the same clips, with 1, half of, and all but one frame of context unless
`--context_frames` says which. Masks are the same with and without the cache, so the difference is
known better than either number; its error is the standard error over clips. `launch.
compare_samplers --samplers=mgm:stride=1,context_cache=True` compares what is generated.
"""

import dataclasses
import json
from pathlib import Path

from absl import app, flags, logging

from launch.cache_costs import as_markdown, compare
from launch.rollouts import load_run
from launch.sampling_jobs import local_mesh
from launch.startup import start
from maskflow_jax.data.dataset import check_tokenizer, read_token_dataset

_WORKDIRS = flags.DEFINE_multi_string("workdir", None, "Folder of a trained run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Result files, without suffix.", required=True)
_CONTEXT = flags.DEFINE_list("context_frames", None, "Frames of context.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Clips at a time.", lower_bound=1)
_PASSES = flags.DEFINE_integer(
    "passes", 2, "Passes over the held-out clips, of other masks each.", lower_bound=1
)
_DATASET = flags.DEFINE_string("dataset", None, "Dataset directory, if it has moved.")


def main(_) -> None:
    """Measures, prints and writes."""
    start()
    rows, out = [], Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    for workdir in _WORKDIRS.value:
        run = load_run(Path(workdir), local_mesh(num_devices=1))
        videos = read_token_dataset(_DATASET.value or run.config["data"]["directory"], "test")
        check_tokenizer(videos.tokenizer, run.config["tokenizer"], other_name="trained model")
        frames = run.config["data"]["clip_frames"]
        asked = _CONTEXT.value or sorted({1, frames // 2, frames - 1})
        for context_frames in map(int, asked):
            settings = {"batch_size": _BATCH.value, "passes": _PASSES.value}
            rows.append(compare(Path(workdir).name, run, videos, context_frames, **settings))
            logging.info("%s", as_markdown(rows[-1:]).splitlines()[-1])
            # After each, so that nothing is lost.
            table = [dataclasses.asdict(row) for row in rows]
            out.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
            out.with_suffix(".md").write_text(as_markdown(rows))
    logging.info("wrote %s.md:\n%s", out, as_markdown(rows))


if __name__ == "__main__":
    app.run(main)
