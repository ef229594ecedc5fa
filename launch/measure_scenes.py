r"""Measures a model of mazes in scenes: do scenes show what captions say, and what do they share?

    python -m launch.measure_scenes --workdir=runs/maze_scenes --out=runs/scene_measures
    python -m launch.measure_scenes --workdir=runs/maze_scenes --num_scenes=10 --expand \
        --guidance=1 --guidance=3 --out=runs/scene_expansion

samples a video for each list of captions of validation walks and reads its scenes from the pixels
(docs/scenes.md defines the measures). `--guidance`, given several times, makes a row for each. With
the model's dataset at hand, real walks are measured too. Writes the table (.md) and everything that
the numbers depend on (.json) to `--out`.
"""

import json
from pathlib import Path

from absl import flags, logging

from launch import cli, places
from launch.startup import start

_WORKDIR = flags.DEFINE_string("workdir", None, "Run, exported model or name.", required=True)
_OUT = flags.DEFINE_string("out", None, "Result files without suffix.", required=True)
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 64, "Number of videos.", lower_bound=1)
_NUM_SCENES = flags.DEFINE_integer("num_scenes", 3, "Scenes of a video.", lower_bound=1)
_EXPAND = flags.DEFINE_bool("expand", False, "Sample the scenes after the first window one by one.")
_GUIDANCE = flags.DEFINE_multi_float("guidance", [1.0], "Weight of captions.")
_SET = flags.DEFINE_multi_string("set", [], "A setting of the section `sampling`, NAME=VALUE.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Videos sampled at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0, upper_bound=2**31)


def main(_) -> None:
    """Samples, reads and writes."""
    start()
    from maskflow_jax.config_files import change_sampling
    from maskflow_jax.generation import scene_measures, trained_model
    from maskflow_jax.io.files import write_text

    generator = places.load(_WORKDIR.value)
    sampling = vars(change_sampling(generator.model.config.sampling, _SET.value))
    captions = scene_measures.walks(_NUM_VIDEOS.value, _NUM_SCENES.value)
    found, out = {}, Path(_OUT.value)
    try:
        videos = trained_model.find_dataset(generator.model, "test", places.moved()["dataset"])
    except FileNotFoundError as error:
        logging.info("real walks are not measured: %s", error)
    else:
        sizes = min(_NUM_VIDEOS.value, len(videos)), _NUM_SCENES.value
        found["real"] = scene_measures.measure_real(videos, generator.tokenizer, *sizes)
    settings = {"expanded": _EXPAND.value, "batch_size": _BATCH.value, "seed": _SEED.value}
    for weight in _GUIDANCE.value:
        options = sampling | {"guidance": weight}
        measures = scene_measures.measure_model(generator, captions, options=options, **settings)
        found[f"guidance {weight:g}"] = measures
        rows = [scene_measures.as_row(*row) for row in found.items()]
        table = "\n".join([scene_measures.HEADER, *rows]) + "\n"
        write_text(out.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
        write_text(out.with_suffix(".md"), table)
    logging.info("wrote %s.md:\n%s", out, table)


if __name__ == "__main__":
    cli.run(main)
