"""Compares samplers on one trained run: network passes, seconds, distance from real tokens.

    python -m launch.compare_samplers --workdir=runs/maze --out=comparison

continues held-out videos with every sampler of `--samplers` and writes `comparison.md` and
`comparison.json`. Statistics of the shorter lengths are those of the longest rollout's beginning.
A sampler may have settings and a stride: `--samplers=mgm:noise=linear,stride=1` (give the flag once
per sampler); other settings are its defaults, whatever the run's sampler is. The reference is the
whole length of all other held-out videos.
"""

import json
from pathlib import Path

from absl import app, flags, logging

from launch.comparing import Arena, as_markdown, compare, parse
from launch.rollouts import load_run
from launch.startup import start
from maskflow_jax.data.dataset import check_tokenizer, read_token_dataset
from maskflow_jax.evaluation.token_statistics import code_groups
from maskflow_jax.tokenizers.tokenizer import Tokenizer

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the trained run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Result files, without suffix.", required=True)
_SAMPLERS = flags.DEFINE_multi_string(
    "samplers", ["mgm", "mgm:stride=1", "halton", "remdm", "fm"], "Sampler, with settings."
)
_FACTORS = flags.DEFINE_list("factors", ["1", "2", "5"], "Lengths, in training windows.")
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 16, "Videos continued, all at a time.")
_GROUPS = flags.DEFINE_integer("groups", 16, "Groups of codes that pairs are counted over.")
_DATASET = flags.DEFINE_string("dataset", None, "Dataset directory, if it has moved.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer, if it has moved.")


def main(_) -> None:
    """Plays, prints and writes."""
    start()
    contestants = [parse(text) for text in _SAMPLERS.value]
    run = load_run(Path(_WORKDIR.value))
    videos = read_token_dataset(_DATASET.value or run.config["data"]["directory"], "test")
    check_tokenizer(videos.tokenizer, run.config["tokenizer"], other_name="trained model")
    tokenizer = Tokenizer.load(_TOKENIZER.value or run.config["data"]["tokenizer"])
    check_tokenizer(tokenizer.identity, run.config["tokenizer"], other_name="trained model")
    arena = Arena(
        run,
        videos,
        code_groups(tokenizer.codebook, _GROUPS.value),
        _NUM_VIDEOS.value,
        tuple(int(factor) for factor in _FACTORS.value),
    )
    out = Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    for rows in compare(arena, contestants):  # after each, so that hours are not lost
        out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        out.with_suffix(".md").write_text(as_markdown(rows))
    logging.info("wrote %s.md:\n%s", out, as_markdown(rows))


if __name__ == "__main__":
    app.run(main)
