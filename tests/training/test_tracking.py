"""What a run leaves for people: Weights & Biases, curves and cards."""

import hashlib
import json
import sys
import types

import numpy as np
import pytest
import tiny
from PIL import Image

from maskflow_jax.generation.trained_model import export_model
from maskflow_jax.io.provenance import command_line, markdown_table
from maskflow_jax.training import curves
from maskflow_jax.training.metrics import MetricWriter
from maskflow_jax.training.model_files import load_model
from maskflow_jax.training.trainer import train


class Wandb(types.ModuleType):
    """Stands for the package: notes what it is told, and fails where it is told to."""

    class Error(Exception):
        pass

    def __init__(self, fails=()):
        super().__init__("wandb")
        self.fails, self.calls = fails, []

    def _note(self, call, **values):
        self.calls.append((call, values))
        if call in self.fails:
            raise self.Error(f"{call} failed")

    def init(self, **values):
        self._note("init", **values)
        return types.SimpleNamespace(
            log=lambda scalars, step: self._note("log", scalars=scalars, step=step),
            finish=lambda: self._note("finish"),
        )


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def install(fails=()):
        module = Wandb(fails)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def write(workdir, steps=(1, 2), project="mazes"):
    writer = MetricWriter(workdir, project=project, settings={"seed": 0})
    for step in steps:
        writer.write(step, {"train/loss": 0.5})
    writer.close()
    return (workdir / "metrics.jsonl").read_text().count("\n")


def test_metrics_go_to_wandb_offline_and_a_restart_is_the_same_run(wandb, tmp_path):
    module = wandb()
    write(tmp_path)
    write(tmp_path, steps=(3,))
    names = [name for name, _ in module.calls]
    assert names == ["init", "log", "log", "finish", "init", "log", "finish"]
    first, second = (values for name, values in module.calls if name == "init")
    assert first == second
    assert (first["mode"], first["resume"], first["project"]) == ("offline", "allow", "mazes")
    assert first["config"] == {"seed": 0} and first["dir"] == str(tmp_path)
    assert module.calls[1] == ("log", {"scalars": {"train/loss": 0.5}, "step": 1})


def test_wandb_is_not_touched_unless_asked_for_and_its_mode_can_be_set(
    wandb, tmp_path, monkeypatch
):
    module = wandb()
    assert write(tmp_path, project="") == 2
    assert not module.calls
    monkeypatch.setenv("WANDB_MODE", "online")
    write(tmp_path)
    assert module.calls[0][1]["mode"] == "online"


@pytest.mark.parametrize(
    ("fails", "calls"),
    [(("init",), 1), (("log",), 2), (("finish",), 4)],
)
def test_its_failures_stop_nothing(wandb, tmp_path, caplog, fails, calls):
    module = wandb(fails)
    assert write(tmp_path) == 2
    assert len(module.calls) == calls  # nothing more is sent after an error
    assert f"{fails[0]} failed" in caplog.text


def test_without_the_package_a_warning_names_the_extra(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert write(tmp_path) == 2
    assert "pip install 'maskflow_jax[wandb]'" in caplog.text


def test_a_finished_run_has_a_card_with_its_hashes(tiny_run):
    card = (tiny_run / "card.md").read_text()
    assert "| state | finished after 3 steps |" in card
    assert command_line() in card
    for name in ("config.json", "metrics.jsonl"):
        digest = hashlib.sha256((tiny_run / name).read_bytes()).hexdigest()
        assert f"| {name} | `{digest}` |" in card
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["tokenizer"]["sha256"] in card
    assert "validation/cross_entropy, step 3" in card


def test_a_run_that_begins_has_a_card_too(tiny_run, tmp_path, monkeypatch):
    seen = {}

    class StoppedError(Exception):
        pass

    def stop(run):
        seen["card"] = (tmp_path / "run" / "card.md").read_text()
        raise StoppedError

    settings = tiny.settings_of(tiny_run.parent, run__num_steps=3)
    with tiny.quick_compilation(), pytest.raises(StoppedError):
        train(settings, tmp_path / "run", [stop])
    assert "| state | started at step 0 of 3 steps |" in seen["card"]


def test_curves_are_drawn_at_the_end(tiny_run):
    pytest.importorskip("matplotlib")
    assert (tiny_run / "curves.png").stat().st_size > 10_000
    assert "![training curves](curves.png)" in (tiny_run / "card.md").read_text()
    with Image.open(tiny_run / "curves.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5  # something is on it


def test_without_matplotlib_a_line_names_the_extra(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert curves.write_curves(tmp_path) is None
    assert "pip install 'maskflow_jax[report]'" in caplog.text


def test_metrics_are_read_with_their_last_values(tmp_path):
    assert curves.read_metrics(tmp_path) == {}
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 2, "a": 3.0, "b": 4.0}]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "a"')
    assert curves.read_metrics(tmp_path) == {"a": ([1, 2], [1.0, 3.0]), "b": ([2], [4.0])}
    path.write_text('{"step"\n{"step": 1, "a": 1.0}\n')
    with pytest.raises(ValueError, match="line 1 is damaged"):
        curves.read_metrics(tmp_path)


def test_an_exported_model_gets_a_card_unless_it_brings_one(tiny_run, tmp_path):
    model = load_model(tiny_run)
    export_model(model, tmp_path / "a", dtype="float32")
    card = (tmp_path / "a" / "card.md").read_text()
    assert "# Model run" in card and "after 3 steps, stored in float32" in card
    assert model.config.tokenizer.sha256 in card and command_line() in card
    export_model(model, tmp_path / "b", card="Mine.")
    assert (tmp_path / "b" / "card.md").read_text() == "Mine."


def test_tables_hold_any_text():
    assert markdown_table("x", [("a|b", "c\nd")]).splitlines()[2] == "| a\\|b | c d |"
