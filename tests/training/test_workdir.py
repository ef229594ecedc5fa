"""The folder of a run belongs to one config."""

import json
from pathlib import Path

import jax
import pytest
from tiny import tiny_config

from maskflow_jax.config_files import to_dict
from maskflow_jax.training.workdir import claim_workdir, read_workdir_config


def begin(workdir, config):
    """A folder with a checkpoint in it."""
    claim_workdir(workdir, config)
    (workdir / "checkpoints" / "3").mkdir(parents=True)


def test_a_new_folder_is_claimed_and_taken_again(tmp_path):
    workdir, config = tmp_path / "a" / "b", tiny_config()
    begin(workdir, config)
    assert read_workdir_config(workdir) == config
    claim_workdir(workdir, config)
    assert {path.name for path in workdir.iterdir()} == {"config.json", "checkpoints"}


def test_free_settings_may_change(tmp_path):
    begin(tmp_path, tiny_config())
    longer = tiny_config(run__num_steps=99, data__directory="/moved")
    claim_workdir(tmp_path, longer)
    assert read_workdir_config(tmp_path) == longer


def test_all_other_differences_are_refused_and_named(tmp_path):
    begin(tmp_path, tiny_config())
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="belongs to another config") as caught:
        claim_workdir(tmp_path, tiny_config(model__width=32, seed=1))
    assert "model.width: 16 in the folder, 32 in this config" in str(caught.value)
    assert "seed: 0 in the folder, 1 in this config" in str(caught.value)
    assert (tmp_path / "config.json").read_text() == before


def test_a_folder_without_a_checkpoint_is_free(tmp_path):
    claim_workdir(tmp_path, tiny_config())
    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    corrected = tiny_config(model__width=32)
    claim_workdir(tmp_path, corrected)
    assert read_workdir_config(tmp_path) == corrected


def test_checkpoints_without_a_config_are_not_claimed(tmp_path):
    begin(tmp_path, tiny_config())
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json to compare with"):
        claim_workdir(tmp_path, tiny_config())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        claim_workdir(tmp_path / "x", tiny_config())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/run cannot be written .* choose another folder"):
        claim_workdir(tmp_path / "file" / "run", tiny_config())


def test_config_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    claim_workdir(tmp_path, tiny_config())

    def full_disk(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        claim_workdir(tmp_path, tiny_config(seed=1))
    assert read_workdir_config(tmp_path) == tiny_config()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    claim_workdir(tmp_path / "new", tiny_config())
    assert not (tmp_path / "new").exists()


def test_other_folders_and_damaged_configs_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_workdir_config(tmp_path)
    begin(tmp_path, tiny_config())
    (tmp_path / "config.json").write_text('{"seed": ')
    for read in (read_workdir_config, lambda workdir: claim_workdir(workdir, tiny_config())):
        with pytest.raises(ValueError, match=r"config\.json is damaged.*STEP/config"):
            read(tmp_path)


@pytest.mark.parametrize("older", [{}, {"weights_format": 2}, {"format": 4}])
def test_configs_of_other_versions_are_refused_with_the_way_out(tmp_path, older):
    config = {name: value for name, value in to_dict(tiny_config()).items() if name != "format"}
    begin(tmp_path, tiny_config())
    (tmp_path / "config.json").write_text(json.dumps(config | older))
    with pytest.raises(ValueError, match=r"this version reads 3\. Export the weights"):
        read_workdir_config(tmp_path)
