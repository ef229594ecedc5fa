"""Evaluates a model: samples, measures, writes a receipt; verifies receipts; makes tables of them.

    python -m launch.evaluate --workdir=runs/maze --out=evaluations/maze --length=80
    python -m launch.evaluate --workdir=runs/faces --out=evaluations/faces \
        --protocol=maskflow_official --i3d=i3d.pt --num_videos=704
    python -m launch.evaluate --verify=evaluations/maze/receipt.json
    python -m launch.evaluate --table='evaluations/*/receipt.json' --out=evaluations/table

Without `--protocol` it measures what needs no I3D weights. `--samples=FOLDER`, once per seed,
measures samples that are there. Started again in the same folder, it goes on where it stopped.
"""

from pathlib import Path

from absl import flags, logging

from launch import cli, places
from launch.startup import start

_WORKDIR = flags.DEFINE_string("workdir", None, "Run, exported model or name.")
_OUT = flags.DEFINE_string("out", None, "Folder of the results; path of a table without suffix.")
_SAMPLES = flags.DEFINE_multi_string("samples", [], "Folder of samples to measure, per seed.")
_VERIFY = flags.DEFINE_string("verify", None, "Receipt to recompute from its samples.")
_TABLE = flags.DEFINE_string("table", None, "Receipts to compare, a pattern in quotes.")
_PROTOCOL = flags.DEFINE_string("protocol", None, "styleganv, videogpt or maskflow_official.")
_I3D = flags.DEFINE_string("i3d", None, "File of I3D weights, which a protocol needs.")
_REAL = flags.DEFINE_enum("real", None, ["raw", "reconstructed"], "Real videos of an FVD.")
_NUM_VIDEOS = flags.DEFINE_integer("num_videos", 64, "Generated videos of each seed.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seed of each draw.")
_LENGTH = flags.DEFINE_integer("length", None, "Frames of a video; 5 windows by default.")
_SET = flags.DEFINE_multi_string("set", [], "A setting of the section `sampling`, NAME=VALUE.")
_CLIP_FRAMES = flags.DEFINE_integer("clip_frames", None, "Frames of a measured window; 16.")
_PERMIT_FEW = flags.DEFINE_bool("permit_few", False, "FVD of few videos or very short clips.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Videos or clips at a time.")
_SOURCE = flags.DEFINE_string("source", None, "Source of raw real videos, as in prepare_data.")
_SETTING = flags.DEFINE_multi_string("source_setting", [], "name=value: setting of the source.")
_NUM_REAL = flags.DEFINE_integer("num_real", None, "Largest number of real videos.")


def main(_) -> int:
    """Evaluates, verifies or compares; the exit code is 1 if a receipt does not hold."""
    start()
    import maskflow_jax as mf
    from maskflow_jax.data.sources.registry import read_settings
    from maskflow_jax.evaluation import report
    from maskflow_jax.io.settings import read_integers

    if _VERIFY.value:
        given = {"model": _WORKDIR.value, "i3d": _I3D.value, **places.moved()}
        checks = mf.verify_receipt(_VERIFY.value, **given)
        print("\n".join(map(str, checks)))
        return int(not all(check.holds for check in checks))
    if not _OUT.value:
        raise ValueError("nowhere to write: set --out")
    if _TABLE.value:
        print(report.write_table(report.find_receipts(_TABLE.value), _OUT.value))
        return 0
    if not _WORKDIR.value:
        raise ValueError("no model to evaluate: set --workdir, or --verify or --table")
    same = (_PROTOCOL, _I3D, _REAL, _NUM_VIDEOS, _LENGTH, _CLIP_FRAMES, _PERMIT_FEW)
    settings = mf.EvaluationSettings(
        **{flag.name: flag.value for flag in (*same, _SOURCE, _NUM_REAL)},
        seeds=tuple(read_integers("seeds", _SEEDS.value)),
        sampling=tuple(_SET.value),
        batch_size=_BATCH.value,
        source_settings=read_settings(_SOURCE.value, _SETTING.value) if _SOURCE.value else {},
    )
    given = {"samples": _SAMPLES.value, **places.moved()}
    mf.evaluate(_WORKDIR.value, _OUT.value, settings, **given)
    logging.info("wrote %s:\n%s", _OUT.value, (Path(_OUT.value) / "table.md").read_text())
    return 0


if __name__ == "__main__":
    cli.run(main)
