"""Tables of results: the plan, evaluations made once, the page."""

from pathlib import Path

import pytest
import yaml
from tiny import TOKENIZER

from configs import maze_small
from maskflow_jax import results
from maskflow_jax.evaluation import receipts
from maskflow_jax.evaluation.receipts import Metric

PLAN = Path(__file__).parents[1] / "configs/results.yaml"
SMALL = {
    "about": "What this is.",
    "settings": {"num_videos": 4, "length": 32, "sampling": ["stride=4"]},
    "tables": {
        "one": {
            "shows": "That a is b.",
            "metrics": ["maze_fd", "legal", "none"],
            "settings": {"sampling": ["context_frames=2"]},
            "rows": {"a": {"model": "x"}, "b": {"model": "y", "sampling": ["stride=1"]}},
        },
        "two": {
            "metrics": ["legal"],
            "rows": {"c": {"model": "x", "sampling": ["context_frames=2"]}},
        },
    },
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return path


@pytest.fixture
def evaluated(monkeypatch):
    """Stands for evaluations, which other tests make."""
    made = []

    def evaluate(model, folder, settings, *, features):
        assert features == folder.parent / "features"
        made.append((model, settings.sampling))
        fd = Metric(name="maze_fd", draws=(1.0, 3.0), n=4, floor=0.5, floor_n=4)
        legal = Metric(name="legal", draws=(0.25,), n=4)
        sections = {
            "settings": {"num_videos": 4, "seeds": [0, 1], "length": 32},
            "protocol": {"nfe": 60},
            "speed": {"seconds": 8.0, "batch_size": 4},
        }
        receipt = receipts.make_receipt(sections, [fd, legal])
        receipts.write_receipt(folder / "receipt.json", receipt)

    monkeypatch.setattr(results, "evaluate", evaluate)
    return made


def test_changes_of_the_sampling_add_up(plan):
    one, two = results.read_plan(plan).tables
    assert one.rows[0].settings.sampling == ("stride=4", "context_frames=2")
    assert one.rows[1].settings.sampling == ("stride=4", "context_frames=2", "stride=1")
    assert one.rows[0].key == two.rows[0].key != one.rows[1].key
    assert [table.name for table in results.read_plan(plan, ["two"]).tables] == ["two"]


def test_evaluations_are_made_once_and_make_a_page(plan, evaluated, tmp_path):
    path, plan = plan, results.read_plan(plan)
    empty = results.results_page(plan, tmp_path / "receipts")
    assert "| a | not made yet |" in empty and "real videos" not in empty
    for _ in range(2):
        page = results.make_results(plan, tmp_path / "receipts", tmp_path / "page.md")
    assert [model for model, _ in evaluated] == ["x", "y"]
    assert (tmp_path / "page.md").read_text() == page
    lines = page.splitlines()
    assert lines[:5] == ["# Results", "", "- [one](#one)", "- [two](#two)", ""]
    assert lines[5:7] == ["What this is.", ""]
    lines = lines[7:]
    assert lines[:3] == ["## one", "", "That a is b."]
    assert lines[4] == "| | evaluations | s a video | maze_fd | legal | none |"
    key = results.read_plan(path).tables[0].rows[0].key
    assert lines[6] == f"| [a](receipts/{key}/receipt.json) | 60 | 2 | 2 ± 1 | 0.25 |  |"
    assert lines[8] == "| real videos | | | 0.5 |  |  |"
    assert "4 videos for each of 2 sampling seeds, of 32 frames" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("tables"), "no section `tables`"),
        (lambda p: p["tables"]["one"]["rows"]["a"].pop("model"), "row 'a' of table 'one' names no"),
        (lambda p: p["settings"].update(num_video=3), "row 'a' of table 'one': .*num_video"),
        (lambda p: p["tables"]["two"].pop("metrics"), "table 'two' has no metrics"),
        (lambda p: p["settings"].update(num_videos=1), "num_videos is 1"),
    ],
)
def test_plans_that_cannot_be_read_are_refused(tmp_path, change, message):
    plan = yaml.safe_load(yaml.safe_dump(SMALL, sort_keys=False))
    change(plan)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    with pytest.raises(ValueError, match=message):
        results.read_plan(tmp_path / "plan.yaml")


def test_missing_plans_and_tables_are_refused(plan, tmp_path):
    with pytest.raises(FileNotFoundError, match="no plan at"):
        results.read_plan(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="has no table 'three'; it has one, two"):
        results.read_plan(plan, ["three"])
    plan.write_text("a: [")
    with pytest.raises(ValueError, match="is no YAML"):
        results.read_plan(plan)


def test_the_plan_of_this_project_can_be_sampled():
    """Every row has a plan of windows, and its metrics are those of an evaluation of its length."""
    from maskflow_jax.config_files import change_sampling, read_config
    from maskflow_jax.generation.request import plan_generation

    settings = maze_small.get_config()
    with settings.unlocked():
        settings.tokenizer = TOKENIZER
    config = read_config(settings)
    tables = results.read_plan(PLAN).tables
    assert len(tables) >= 6
    for row in (row for table in tables for row in table.rows):
        sampling = change_sampling(config.sampling, row.settings.sampling)
        assert plan_generation(config, "prediction", row.settings.length, vars(sampling)).nfe > 0
