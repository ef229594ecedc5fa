"""Makes tables of results from a plan: evaluates what is missing and writes a page of tables.

    python -m launch.results --plan=configs/results.yaml --receipts=docs/receipts \
        --out=docs/results.md
    python -m launch.results --plan=configs/results.yaml --tables=Samplers --receipts=receipts \
        --out=samplers.md

An evaluation takes minutes to hours; finished ones are not made again, and a killed one goes on.
`--no_evaluate` only writes the page, of the receipts that are there.
"""

from pathlib import Path

from absl import flags, logging

from launch import cli
from launch.startup import start

_PLAN = flags.DEFINE_string("plan", None, "YAML file of the tables.", required=True)
_TABLES = flags.DEFINE_list("tables", [], "Names of the tables to make; all by default.")
_RECEIPTS = flags.DEFINE_string("receipts", None, "Folder of the evaluations.", required=True)
_OUT = flags.DEFINE_string("out", None, "Page to write, markdown.", required=True)
_NO_EVALUATE = flags.DEFINE_bool("no_evaluate", False, "Writes the page of what is there.")


def main(_) -> None:
    """Evaluates and writes."""
    start()
    from maskflow_jax import results
    from maskflow_jax.io.files import write_text

    plan = results.read_plan(_PLAN.value, _TABLES.value)
    if _NO_EVALUATE.value:
        page = results.results_page(plan, _RECEIPTS.value, Path(_OUT.value).parent)
        write_text(_OUT.value, page)
    else:
        page = results.make_results(plan, _RECEIPTS.value, _OUT.value)
    logging.info("wrote %s:\n%s", _OUT.value, page)


if __name__ == "__main__":
    cli.run(main)
