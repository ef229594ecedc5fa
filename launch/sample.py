"""Samples video from a trained model: from the frames of a dataset or a file, or from nothing.

    python -m launch.sample --workdir=runs/maze --length=160 --num_videos=4
    python -m launch.sample --workdir=maze --context=walk.mp4 --length=160
    python -m launch.sample --workdir=runs/maze --task=inbetween --length=16 --set=sampler.name=fm
    python -m launch.sample --workdir=runs/maze_scenes --captions=walk.txt --set=guidance.captions=3

`--workdir` is a run, an exported model or the name of a shipped one. Any setting of the config's
section `sampling` can be changed by `--set=NAME=VALUE`, such as `--set=sampler.num_steps=10` or
`--set=decoding.temperature=0.9`. The samples go to `--out`: tokens as .npz, an .mp4, and a GIF of
short videos. A killed job goes on where it stopped; several processes share the work. `--task` is
prediction, backward, inbetween, loop, inpaint or unconditional.
"""

from pathlib import Path

import numpy as np
from absl import flags, logging

from launch import cli, distributed, places
from launch.startup import start

_WORKDIR = flags.DEFINE_string("workdir", None, "Run, exported model or name.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the samples; WORKDIR/samples by default.")
_TASK = flags.DEFINE_string("task", None, "What is known; prediction, or with captions nothing.")
_CONTEXT = flags.DEFINE_string("context", "test", "test, train, all (both), or a video or image.")
_WINDOWS = flags.DEFINE_bool("random_windows", False, "Takes a random window of every video.")
_LENGTH = flags.DEFINE_integer("length", None, "Number of frames; of captions all scenes.")
_CAPTIONS = flags.DEFINE_string("captions", None, "File: a line a scene, empty between videos.")
_PER_SCENE = flags.DEFINE_integer("frames_per_scene", None, "Frames of a scene of captions.")
_BOX = flags.DEFINE_list("box", None, "inpaint: top,left,height,width as shares of the frame.")
_SET = flags.DEFINE_multi_string("set", [], "A setting of the section `sampling`, NAME=VALUE.")
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 1, "0: all of the split.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch_size", 4, "Videos sampled at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0, upper_bound=2**32 - 1)
_GIF = flags.DEFINE_bool("gif", None, "Whether GIFs are written; by default up to 200 frames.")
_REPORT = flags.DEFINE_bool("report", False, "Writes how the samples drift: drift.csv, .png.")


def main(_) -> None:
    """Samples and writes."""
    start()
    distributed.join(saves_at_sigterm=False)
    import maskflow_jax as mf
    from maskflow_jax.config_files import change_sampling
    from maskflow_jax.generation import sample_folder, scenes
    from maskflow_jax.sampling.patterns import read_box

    generator = places.load(_WORKDIR.value, mesh=sample_folder.local_mesh())
    sampling = change_sampling(generator.model.config.sampling, _SET.value)
    task = _TASK.value or ("unconditional" if _CAPTIONS.value else "prediction")
    options, count = {**vars(sampling), "task": task}, _NUM_VIDEOS.value
    options |= {"box": read_box(_BOX.value)} if _BOX.value else {}
    if _CAPTIONS.value:
        rows = scenes.read_captions(_CAPTIONS.value)
        options |= {"captions": rows, "frames_per_scene": _PER_SCENE.value}
        count = max(count, len(rows))
    generation = generator.plan(_LENGTH.value, **options)
    if (frames := generation.task.source_frames) and Path(_CONTEXT.value).suffix:
        ends = {"frames": frames, "from_start": generation.task.backward}
        contexts = np.repeat(generator.read_context(_CONTEXT.value, **ends), count or 1, axis=0)
    else:
        which = {"split": _CONTEXT.value, "window_seed": _SEED.value if _WINDOWS.value else None}
        chosen = np.arange(count) if count else "all"
        contexts = generator.read_context(frames=frames, indices=chosen, **which)
    logging.info("%s by %s: %s", task, sampling.sampler.name, generation)
    out = Path(_OUT.value or sample_folder.default_folder(generator.model))
    more = {"seed": _SEED.value, "length": _LENGTH.value, "options": options}
    samples = sample_folder.SampleFolder(generator, out, contexts, **more)
    written = samples.complete(_BATCH.value, gif=_GIF.value)
    if _REPORT.value:
        mf.write_drift_report(generator, out, generation, dataset=places.moved()["dataset"])
    logging.info("wrote %d videos of %d frames to %s", written, generation.task.shown, out)


if __name__ == "__main__":
    cli.run(main)
