"""Released weights become a run, a run's weights become a released file, and back again."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from released import random_latte
from tiny import assert_same, host_copy, quick_compilation, settings_of, write_videos, write_world

from maskflow_jax.config_files import read_config
from maskflow_jax.io.torch_files import read_torch_file, write_state_dict
from maskflow_jax.models import latte_torch
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training import trainer
from maskflow_jax.training.building import make_latte_config
from maskflow_jax.training.checkpoints import CheckpointError
from maskflow_jax.training.model_files import load_model
from maskflow_jax.training.released_weights import export_checkpoint, import_checkpoint
from maskflow_jax.training.workdir import read_workdir_config

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    write_world(directory)
    return directory


def latte_of(world):
    identity = Tokenizer.load(world / "tokenizer").identity
    return make_latte_config(trainer.with_tokenizer(read_config(settings_of(world)), identity))


def released(world, seed=0):
    """Parameters as we hold them, and as torch does."""
    latte = latte_of(world)
    params = random_latte(latte, seed)
    return params, latte_torch.to_torch(params, latte, grid_size=4, num_frames=4)


@pytest.fixture
def weights(world, tmp_path):
    """A file of one state dict that no torch is needed for, and its parameters."""
    params, state = released(world)
    write_state_dict(tmp_path / "w.safetensors", state)
    return tmp_path / "w.safetensors", params


class Seen:
    """What a training starts from and which batches it reads."""

    def __init__(self, monkeypatch):
        train = trainer.train_loop
        self.starts, self.ends, self.first_batch = [], [], []

        def watched(parts, state, *rest):
            self.starts.append(host_copy(state))
            self.first_batch.append(parts.batches.get_state()["next_batch"])
            state, finished = train(parts, state, *rest)
            self.ends.append(host_copy(state))
            return state, finished

        monkeypatch.setattr(trainer, "train_loop", watched)


def test_training_goes_on_from_imported_weights(world, weights, tmp_path, monkeypatch, caplog):
    path, params = weights
    settings, workdir, seen = settings_of(world), tmp_path / "run", Seen(monkeypatch)
    caplog.set_level(logging.INFO, logger="absl")
    import_checkpoint(path, settings, workdir)
    assert "one state dict: used both" in caplog.text
    assert_same(host_copy(load_model(workdir).params), params)
    settings["run"]["num_steps"] = 2
    assert trainer.train(settings, workdir)
    assert "these weights were imported: the data starts from its beginning" in caplog.text
    (start,), (end,) = seen.starts, seen.ends
    assert_same(start["params"], params)
    assert_same(start["ema_params"], params)
    assert all(not np.any(leaf) for leaf in moments(start))
    assert (start["step"], end["step"], seen.first_batch) == (0, 2, [0])
    assert any(np.any(leaf) for leaf in moments(end))
    # From here on it is a run like any other.
    settings["run"]["num_steps"] = 3
    assert trainer.train(settings, workdir)
    assert_same(seen.starts[1], end)
    assert seen.first_batch == [0, 2]
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "3"}


def moments(state):
    return [leaf for leaf in jax.tree.leaves(state["opt_state"]) if leaf.ndim]


def test_a_damaged_step_falls_back_to_the_import_and_the_first_batch(
    world, weights, tmp_path, monkeypatch
):
    settings, workdir, seen = settings_of(world, run__num_steps=2), tmp_path / "run", None
    import_checkpoint(weights[0], settings, workdir)
    assert trainer.train(settings, workdir)
    shutil.rmtree(workdir / "checkpoints" / "2" / "ema_params")  # its data position is whole
    seen = Seen(monkeypatch)
    assert trainer.train(settings, workdir)
    assert (int(seen.starts[0]["step"]), seen.first_batch) == (0, [0])
    assert (workdir / "damaged_checkpoint_2").is_dir()


def test_an_import_without_its_mark_is_damage(world, weights, tmp_path):
    settings, workdir = settings_of(world), tmp_path / "run"
    import_checkpoint(weights[0], settings, workdir)
    shutil.rmtree(workdir / "checkpoints" / "0" / "imported")
    with pytest.raises(CheckpointError, match="step 0"):
        trainer.train(settings, workdir)


def test_a_released_file_gives_parameters_average_and_step(world, tmp_path):
    pytest.importorskip("torch")
    (params, model), (average, ema) = released(world), released(world, seed=1)
    wrapped = {f"module.{name}": array for name, array in model.items()}
    contents = {"model": wrapped, "ema": ema, "train_steps": 7, "best_fid": 3.0}
    write_state_dict(tmp_path / "maskflow.pt", contents)
    settings, workdir = settings_of(world), tmp_path / "run"
    import_checkpoint(tmp_path / "maskflow.pt", settings, workdir, keep_step=True)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["7"]
    origin = json.loads((workdir / "checkpoints/7/imported/metadata").read_text())
    assert origin["file"] == "maskflow.pt"
    assert origin["numbers"] == {"train_steps": 7, "best_fid": 3.0}
    assert_same(host_copy(load_model(workdir).params), average)

    export_checkpoint(workdir, tmp_path / "out" / "again.pt")
    again = read_torch_file(tmp_path / "out" / "again.pt")
    assert again.numbers == {"train_steps": 7, "best_fid": float("inf")}
    for section, state in (("model", model), ("ema", ema)):
        assert_same(again.sections[section], state)
    assert_same(latte_torch.from_torch(again.sections["model"], latte_of(world)), params)


def test_export_without_torch_has_the_average(world, weights, tmp_path):
    path, params = weights
    import_checkpoint(path, settings_of(world), tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "out.safetensors")
    state = read_torch_file(tmp_path / "out.safetensors").state_dict()
    assert_same(latte_torch.from_torch(state, latte_of(world)), params)
    patches = (4 // latte_of(world).patch_size) ** 2
    assert state["pos_embed"].shape == (1, patches, 16)
    assert state["temp_embed"].shape == (1, 4, 16)


@pytest.mark.parametrize("section", ["model", "ema", "state_dict"])
def test_a_single_section_is_used_for_both(world, tmp_path, section, caplog):
    pytest.importorskip("torch")
    params, state = released(world)
    write_state_dict(tmp_path / "w.pt", {section: state})
    import_checkpoint(tmp_path / "w.pt", settings_of(world), tmp_path / "run")
    assert "used both as the parameters and as their average" in caplog.text
    assert_same(host_copy(load_model(tmp_path / "run").params), params)


def test_the_tokenizer_stands_in_for_a_dataset(world, weights, tmp_path):
    settings = settings_of(world, data__directory=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no dataset at .*nowhere.*give the tokenizer"):
        import_checkpoint(weights[0], settings, tmp_path / "run")
    shutil.copytree(world / "tokenizer", tmp_path / "moved")
    settings["data"]["tokenizer"] = str(tmp_path / "moved")
    identity = Tokenizer.load(tmp_path / "moved").identity
    import_checkpoint(weights[0], settings, tmp_path / "run", tokenizer=identity)
    config = read_workdir_config(tmp_path / "run")
    assert config.data.tokenizer == str(tmp_path / "moved")
    # A dataset of another tokenizer is not trained on.
    write_videos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"another config(?s:.*)tokenizer\.sha256"):
        trainer.train(settings, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__depth": 4}, r"w\.safetensors: the checkpoint does not fit .*says depth 4"),
        ({"model__width": 64}, r"width 16, .*says width 64(?s:.*)set config\.model"),
        ({"model__variant": "B/2"}, r"says depth 12, width 768"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    world, weights, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        import_checkpoint(weights[0], settings_of(world, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_grid_is_refused_and_another_window_is_said(world, tmp_path, caplog):
    latte = latte_of(world)
    params = random_latte(latte)
    for grid, frames in ((8, 4), (4, 9)):
        state = latte_torch.to_torch(params, latte, grid_size=grid, num_frames=frames)
        write_state_dict(tmp_path / f"{grid}.safetensors", state)
    with pytest.raises(ValueError, match="is for 8x8 tokens, the tokenizer makes 4x4"):
        import_checkpoint(tmp_path / "8.safetensors", settings_of(world), tmp_path / "run")
    import_checkpoint(tmp_path / "4.safetensors", settings_of(world), tmp_path / "run")
    assert "trained on windows of 9 frames, config.data.clip_frames is 4" in caplog.text


def test_a_run_is_not_overwritten_and_a_step_must_be_there(world, weights, tmp_path):
    with pytest.raises(ValueError, match="train_steps None; set keep_step to false"):
        import_checkpoint(weights[0], settings_of(world), tmp_path / "run", keep_step=True)
    import_checkpoint(weights[0], settings_of(world), tmp_path / "run")
    with pytest.raises(FileExistsError, match="has checkpoints already"):
        import_checkpoint(weights[0], settings_of(world), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        export_checkpoint(tmp_path / "none", tmp_path / "w.pt")


def test_the_programs(world, weights, tmp_path):
    """Import, then export, as a user does."""
    flags = settings_of(world)["data"]
    command = [sys.executable, "-m", "launch.import_weights", f"--checkpoint={weights[0]}"]
    command += ["--config=configs/maze.py:smoke", "--config.model.width=16"]
    command += ["--config.model.patch_size=2"]
    command += [f"--config.data.directory={flags['directory']}", "--config.data.clip_frames=4"]
    run(*command, f"--workdir={tmp_path}/run")
    out = tmp_path / "out.safetensors"
    run(
        sys.executable,
        "-m",
        "launch.export_weights",
        f"--workdir={tmp_path}/run",
        f"--out={out}",
    )
    ours, theirs = read_torch_file(out).state_dict(), read_torch_file(weights[0]).state_dict()
    assert_same(ours, {name: theirs[name] for name in ours})


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
