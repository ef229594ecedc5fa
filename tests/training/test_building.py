"""From config to objects: what is unknown is named, and a folder belongs to one config."""

import importlib
import json
import re
from pathlib import Path

import jax
import ml_collections
import pytest
from launch.rollouts import load_run
from tiny import TOKENIZER, tiny_config

from configs import maze
from maskflow_jax.flow.frame_times import FRAME_TIMES
from maskflow_jax.training.building import make_flow, make_latte_config
from maskflow_jax.training.released_weights import export_checkpoint

PAPER = ["", "smoke", "constant", "smoke,time_independent", "constant,time_independent"]
CONFIGS = {
    "dmlab": PAPER,
    "faceforensics": PAPER,
    "maze": [*PAPER, "demo", "demo_smoke"],
    "maze_tokenizer": ["", "128", "smoke"],
    "my_way_home_tokenizer": ["", "smoke"],
    "own_videos": PAPER,
}


def test_every_config_file_is_known_here():
    files = {path.stem for path in Path(__file__).parents[1].glob("configs/*.py")}
    assert files - {"__init__"} == CONFIGS.keys()


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, each) for name, all_ in CONFIGS.items() for each in all_]
)
def test_every_config_builds_with_every_argument(name, arguments):
    config = importlib.import_module(f"configs.{name}").get_config(arguments)
    assert isinstance(config, ml_collections.ConfigDict)
    json.dumps(config.to_dict())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_names_its_arguments(name):
    with pytest.raises(ValueError, match=r"'wrong'.*smoke"):
        importlib.import_module(f"configs.{name}").get_config("wrong")


def full_config(**changes):
    """The resolved config of the maze, changed as by `tiny_config`."""
    config = trainer.resolve(maze.get_config().to_dict(), TOKENIZER)
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section] = {**config.get(section, {}), field: value} if field else value
    return config


def test_unread_and_missing_keys_are_named_all_at_once():
    trainer.check_config(full_config())
    config = full_config(optimiser={}, flow__mask_cee=True, data__clip_framez=3, sampling__strid=1)
    del config["data"]["tokenizer"]
    with pytest.raises(ValueError, match="the config has no 'optimiser'") as caught:
        trainer.check_config(config)
    for part in ("flow has no 'mask_cee'", "'clip_framez'", "'strid'", "data lacks 'tokenizer'"):
        assert part in str(caught.value)


def test_a_variant_replaces_the_sizes_of_the_file():
    named = make_latte_config(full_config(model__variant="B/4"))
    assert (named.depth, named.width, named.num_heads, named.patch_size) == (12, 768, 12, 4)
    assert named.remat == maze.get_config().model.remat
    with pytest.raises(ValueError, match="it is the tokenizer's"):
        make_latte_config(full_config(model__codebook_size=2048))


def test_checkpoints_without_a_config_are_not_claimed(tmp_path):
    begin(tmp_path, tiny_config())
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json to compare with"):
        trainer.claim_workdir(tmp_path, tiny_config())


def test_variant_or_sizes():
    named = make_latte_config(tiny_config(model={"variant": "B/2", "dtype": "bfloat16"}))
    assert (named.depth, named.width, named.patch_size, named.dtype) == (12, 768, 2, "bfloat16")
    sizes = make_latte_config(tiny_config())
    assert (sizes.depth, sizes.width, sizes.codebook_size) == (2, 16, 8)


@pytest.mark.parametrize("name", FRAME_TIMES)
def test_frame_times_are_the_configs(name):
    flow = make_flow(tiny_config(flow__frame_times=name))
    assert flow.frame_times is FRAME_TIMES[name]
    assert flow.mask_id == 8
    assert flow.schedule.name == "quadratic"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow__schedule": "lienar"}, "unknown schedule 'lienar'.*linear, quadratic"),
        ({"flow__frame_times": "frames"}, "unknown frame_times 'frames'.*frame, constant, mixed"),
        ({"flow__weighting": "snrr"}, "unknown weighting 'snrr'.*none, snr, elbo"),
        ({"flow__snr": {"clipp": 5}}, "weighting snr has no .*clipp"),
    ],
)
def test_unknown_flow_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_flow(tiny_config(**changes))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"variant": "Q/2"}, "unknown model variant 'Q/2'.*S, B, L, XL"),
        ({"depth": 2, "width": 16, "num_heads": 2, "wdith": 3}, "model.*wdith.*choose.*width"),
        ({"variant": "S/2", "wdith": 3}, "model.*wdith.*choose.*width"),
        ({"depth": 3, "width": 16, "num_heads": 2}, "depth 3 is odd"),
        ({"depth": 2, "width": 16}, "model.*num_heads"),
    ],
)
def test_unknown_model_settings_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        make_latte_config(tiny_config(model=model))


def test_tiny_configs_are_json():
    config = trainer.resolve({"mesh": {"shape": (1, 2)}}, {"grid": (4, 4)})
    assert config == {
        "mesh": {"shape": [1, 2]},
        "tokenizer": {"grid": [4, 4]},
        "weights_format": trainer.WEIGHTS_FORMAT,
    }


def test_weights_of_another_format_are_refused(tmp_path):
    """Where they are read, and where a run would go on from them."""
    config = full_config()
    trainer.check_weights_format(config)
    older = {name: value for name, value in config.items() if name != "weights_format"}
    with pytest.raises(ValueError, match=r"format 1, this version reads 2; export them"):
        trainer.check_weights_format(older)
    begin(tmp_path, older)
    for read in (load_run, lambda workdir: export_checkpoint(workdir, tmp_path / "x.safetensors")):
        with pytest.raises(ValueError, match="the run's weights have format 1"):
            read(tmp_path)
    with pytest.raises(ValueError, match=r"weights_format: '\(none\)' in the folder, 2 in this"):
        trainer.claim_workdir(tmp_path, config)


def begin(workdir, config):
    """A folder with a checkpoint in it."""
    trainer.claim_workdir(workdir, config)
    (workdir / "checkpoints" / "3").mkdir(parents=True)


def test_a_new_folder_is_claimed_and_taken_again(tmp_path):
    workdir, config = tmp_path / "a" / "b", tiny_config()
    begin(workdir, config)
    assert trainer.read_config(workdir) == config
    trainer.claim_workdir(workdir, config)
    assert {path.name for path in workdir.iterdir()} == {"config.json", "checkpoints"}


def test_what_does_not_change_the_learning_may_change(tmp_path):
    begin(tmp_path, tiny_config())
    changed = tiny_config(
        run={"num_steps": 99, "log_every": 3},
        mesh={"fsdp": 2},
        sampling={"context_frames": 2},
        data__directory="/moved",
        data__tokenizer="/moved/tokenizer",
        data__num_workers=4,
        model__remat="none",
        tokenizer__name="renamed",
    )
    trainer.claim_workdir(tmp_path, changed)
    assert trainer.read_config(tmp_path) == changed


def test_all_other_differences_are_refused_and_named(tmp_path):
    begin(tmp_path, tiny_config())
    before = (tmp_path / "config.json").read_text()
    changed = tiny_config(
        seed=1,
        model__width=32,
        model__dtype="bfloat16",
        data__clip_frames=8,
        flow__schedule="linear",
        optimizer__learning_rate=1.0,
        tokenizer__sha256="1" * 64,
        run={"num_steps": 5},
    )
    with pytest.raises(ValueError, match="belongs to another config") as caught:
        trainer.claim_workdir(tmp_path, changed)
    named = re.findall(r"^  ([\w.]+): ", str(caught.value), re.MULTILINE)
    assert named == [
        "data.clip_frames",
        "flow.schedule",
        "model.dtype",
        "model.width",
        "optimizer.learning_rate",
        "seed",
        "tokenizer.sha256",
    ]
    assert "model.width: 16 in the folder, 32 in this config" in str(caught.value)
    assert "model.dtype: '(none)' in the folder" in str(caught.value)
    assert (tmp_path / "config.json").read_text() == before


def test_a_folder_without_a_checkpoint_is_free(tmp_path):
    trainer.claim_workdir(tmp_path, tiny_config())
    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    corrected = tiny_config(model__width=32)
    trainer.claim_workdir(tmp_path, corrected)
    assert trainer.read_config(tmp_path) == corrected


def test_config_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    trainer.claim_workdir(tmp_path, tiny_config())

    def full_disk(self, text):
        self.write_bytes(text.encode()[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        trainer.claim_workdir(tmp_path, tiny_config(seed=1))
    assert trainer.read_config(tmp_path) == tiny_config()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    trainer.claim_workdir(tmp_path / "new", tiny_config())
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_runs_and_a_damaged_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a run's folder.*launch\.train"):
        trainer.read_config(tmp_path)
    begin(tmp_path, tiny_config())
    (tmp_path / "config.json").write_text('{"seed": ')
    for read in (
        trainer.read_config,
        lambda workdir: trainer.claim_workdir(workdir, tiny_config()),
    ):
        with pytest.raises(ValueError, match=r"config\.json is damaged.*STEP/config"):
            read(tmp_path)
