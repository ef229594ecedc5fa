"""Compares or tunes samplers, compares cached and plain context, or shows how samplers unmask.

    python -m launch.compare --workdir=maze --out=comparison --samplers=mgm --samplers=halton
    python -m launch.compare --tune --budget=200 --workdir=runs/maze --out=tuned
    python -m launch.compare --what=cache --workdir=runs/maze --out=cache
    python -m launch.compare --what=unmasking --workdir=maze --out=unmasking.gif

`samplers` continues validation videos with every sampler and writes network evaluations, seconds
and distances from real tokens as .md and .json; `--samplers=mgm:noise=random,stride=1`, once per
sampler, gives settings and a stride. `--tune` searches for settings whose cost keeps within
`--budget`, evaluations or seconds (60s). `cache` measures validation cross-entropy and seconds of a
chunk with and without a cached context. `unmasking` draws a row per sampler, masked tokens in grey.
"""

import json
from pathlib import Path

from absl import flags, logging

from launch import cli, places
from launch.startup import start

_WHAT = flags.DEFINE_enum("what", "samplers", ["samplers", "cache", "unmasking"], "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run, exported model or name.", required=True)
_OUT = flags.DEFINE_string("out", None, "Result files without suffix, or a GIF.", required=True)
_SAMPLERS = flags.DEFINE_multi_string(
    "samplers", ["mgm", "mgm:noise=random", "halton", "remdm"], "Sampler, with settings."
)
_FACTORS = flags.DEFINE_list("factors", ["1", "2", "5"], "Lengths, in training windows.")
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 16, "Videos continued, all at a time.")
_TUNE = flags.DEFINE_bool("tune", False, "Searches for the best sampler of a budget.")
_BUDGET = flags.DEFINE_string("budget", "200", "tune: evaluations of a video, or seconds: 60s.")
_TRIALS = flags.DEFINE_integer("trials", 24, "tune: number of settings to try.", lower_bound=1)
_CONTEXT = flags.DEFINE_list("context_frames", None, "cache: numbers of context frames.")


def main(_) -> None:
    """Compares, prints and writes."""
    start()
    from maskflow_jax.evaluation.token_statistics import code_groups
    from maskflow_jax.generation import cache_costs, comparison, tuning, unmasking
    from maskflow_jax.generation.trained_model import find_dataset
    from maskflow_jax.io.files import write_text
    from maskflow_jax.io.settings import read_integers
    from maskflow_jax.io.video_files import write_gif

    generator = places.load(_WORKDIR.value)
    model, out = generator.model, Path(_OUT.value)
    known = model.config.sampling.context_frames
    contestants = [comparison.parse(text, known) for text in _SAMPLERS.value]
    if _WHAT.value == "unmasking":
        rows = unmasking.reveal_videos(generator, [(c.label, c.sampling) for c in contestants])
        write_gif(out, unmasking.animate(generator.tokenizer, rows), 10.0)
        return
    videos = find_dataset(model, model.config.data.validation_split, places.moved()["dataset"])
    if _WHAT.value == "cache":
        asked = read_integers("context_frames", _CONTEXT.value or [])
        results = [cache_costs.compare_all(out.name, model, videos, asked)]
    else:
        groups = code_groups(generator.tokenizer.codebook)
        factors = tuple(read_integers("factors", _FACTORS.value))
        arena = comparison.Arena(generator, videos, groups, _NUM_VIDEOS.value, factors)
        if _TUNE.value:
            results = tuning.tables(arena, _BUDGET.value, _TRIALS.value, out.with_suffix(".png"))
        else:
            results = comparison.tables(arena, contestants)
    for rows, table in results:  # after each, so that hours are not lost
        write_text(out.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")
        write_text(out.with_suffix(".md"), table)
    logging.info("wrote %s.md:\n%s", out, table)


if __name__ == "__main__":
    cli.run(main)
