"""The folder of a run: its config is written, compared and read here."""

import json
from pathlib import Path

import jax

from maskflow_jax.config import FORMAT, Config
from maskflow_jax.config_files import differences, read_config, to_dict
from maskflow_jax.io.files import write_text


def claim_workdir(workdir: Path, config: Config) -> None:
    """Writes the config into the folder of a run, or checks that the folder belongs to it.

    A folder without a checkpoint may be used by any config, for instance by one that was corrected
    after an error.

    Args:
        workdir: Folder of the run, created if missing.
        config: The config. Settings that are marked as free may differ.

    Raises:
        ValueError: with every setting that differs, if the folder belongs to another config.
        NotADirectoryError: if the path is a file.
        OSError: if the folder cannot be written.
    """
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"{workdir} is a file; choose a folder for the run")
    path = workdir / "config.json"
    begun = any(step.name.isdigit() for step in (workdir / "checkpoints").glob("*"))
    if begun and not path.is_file():
        raise ValueError(
            f"{workdir} has checkpoints but no config.json to compare with; restore it from "
            f"{workdir}/checkpoints/STEP/config/metadata, or choose another folder"
        )
    if begun and (lines := differences(read_workdir_config(workdir), config)):
        raise ValueError(
            f"{workdir} belongs to another config; choose another folder, or restore:\n  "
            + "\n  ".join(lines)
        )
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(to_dict(config), indent=2) + "\n")
        except OSError as error:
            raise OSError(
                f"{workdir} cannot be written ({error}); choose another folder for the run"
            ) from error


def read_workdir_config(workdir: Path) -> Config:
    """Reads the config of a run or of an exported model.

    Raises:
        FileNotFoundError: if the folder is not that of a run or a model.
        ValueError: if the file is damaged, or an earlier version of this package wrote it.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run or of a model: it has no config.json"
        )
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error}); the same settings are stored in the checkpoints, under "
            f"{workdir}/checkpoints/STEP/config/metadata"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format", values.get("weights_format", 1))
        raise ValueError(
            f"{path} has format {found}, this version reads {FORMAT}. Export the weights with the "
            "version of maskflow_jax that wrote them and import the exported file with this one, "
            "or train again"
        )
    return read_config(values)
