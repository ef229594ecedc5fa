"""Writes one HTML page that shows a run, samples, results of jobs or evaluations.

    python -m launch.report --path=runs/maze
    python -m launch.report --path=samples/jobs --workdir=maze --out=jobs.html

The page needs nothing beside it: it can be opened from a disk or sent as an attachment. Samples are
shown beside the real videos that they continue where the model is known: PATH itself, a run that
PATH lies in, or `--workdir`. It needs `pip install ".[report]"`.
"""

from absl import flags

from launch import cli, places
from launch.startup import start

_PATH = flags.DEFINE_string("path", None, "Folder to show.", required=True)
_OUT = flags.DEFINE_string("out", None, "HTML file to write; PATH/report.html by default.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run, exported model or name that made samples.")
_MAX_SAMPLES = flags.DEFINE_integer("max_samples", 60, "Samples to show.", lower_bound=0)


def main(_) -> None:
    """Writes the page."""
    start()
    import maskflow_jax as mf

    path = mf.write_report(
        _PATH.value,
        _OUT.value,
        model=_WORKDIR.value,
        **places.moved(),
        max_samples=_MAX_SAMPLES.value,
    )
    print(path)


if __name__ == "__main__":
    cli.run(main)
