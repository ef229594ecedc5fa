"""Imports released PyTorch weights as a new run, and exports weights for the released code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from maskflow_jax.config import Config
from maskflow_jax.config_files import read_config, to_dict
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.io.torch_files import StateDict, TorchFile, read_torch_file, write_state_dict
from maskflow_jax.models import latte_torch
from maskflow_jax.models.latte import LatteConfig
from maskflow_jax.parallel import sharding
from maskflow_jax.training.building import make_flow, make_latte_config, model_builder
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.state import abstract_params, state_from_weights
from maskflow_jax.training.trainer import with_tokenizer
from maskflow_jax.training.workdir import claim_workdir, read_workdir_config


def import_checkpoint(
    checkpoint: Path,
    config: Config | Mapping[str, Any],
    workdir: Path,
    *,
    tokenizer: Mapping[str, Any] | None = None,
    keep_step: bool = False,
) -> None:
    """Turns a file of torch weights into a run that can be sampled from and trained further.

    The parameters come from the section "model", their average from "ema"; a file with one state
    dict provides both. The state of the optimiser and the position in the data are new.

    Args:
        checkpoint: File of torch weights.
        config: A `Config`, or the nested mappings of a config file.
        workdir: Folder of the new run.
        tokenizer: Identity of the tokenizer of the model's tokens (`Tokenizer.identity`); by
            default that of the dataset.
        keep_step: Whether to start from the file's `train_steps` instead of 0.

    Raises:
        FileExistsError: if the folder has checkpoints already.
        FileNotFoundError: if the file, the tokenizer or the dataset is missing.
        ImportError: if torch is needed and missing.
        ValueError: if the file cannot be read or does not fit the settings.
        CheckpointError: if the run could not be written.
    """
    if any((workdir / "checkpoints").glob("[0-9]*")):
        raise FileExistsError(f"{workdir} has checkpoints already; choose another folder")
    config = _with_tokenizer(config, tokenizer)
    if config.scenes.active:
        raise ValueError(
            f"scenes.condition is {config.scenes.condition!r}, for which released weights have no "
            "parameters; set it to 'none'"
        )
    latte = make_latte_config(config)
    optimizer = make_optimizer(config.optimizer)
    file = read_torch_file(checkpoint)
    model, average = _weights(file)
    _check_window(model, config)
    params = _convert(model, latte, checkpoint)
    ema_params = params if average is model else _convert(average, latte, checkpoint)
    step = _step(file) if keep_step else 0
    state = state_from_weights(params, ema_params, optimizer, sharding.make_mesh(), step=step)
    claim_workdir(workdir, config)
    checkpoints = Checkpoints(workdir)
    origin = {"file": checkpoint.name, "sections": list(file.sections), "numbers": file.numbers}
    checkpoints.save_imported(state, to_dict(config), origin)
    checkpoints.close()
    logging.info("imported %s into %s as step %d", checkpoint, workdir, step)


def export_checkpoint(workdir: Path, out: Path) -> None:
    """Writes a run's newest weights for the released code.

    Args:
        workdir: Folder of the run.
        out: File to write: a pickle of torch (`.pt`) with the released sections, or `.safetensors`
            with the averaged weights alone.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ImportError: if torch is needed and missing.
        ValueError: for another suffix, or weights of another format.
        CheckpointError: if there is no checkpoint that can be read.
    """
    config = read_workdir_config(workdir)
    latte = make_latte_config(config)
    abstract = abstract_params(model_builder(config), sharding.make_mesh())
    checkpoints = Checkpoints(workdir)
    step, params, ema_params = checkpoints.restore_weights(abstract)
    checkpoints.close()
    tables = {
        "grid_size": config.tokenizer.grid[0],
        "num_frames": config.data.clip_frames,
    }
    contents = latte_torch.to_torch(ema_params, latte, **tables)
    if out.suffix != ".safetensors":
        contents = {
            "model": latte_torch.to_torch(params, latte, **tables),
            "ema": contents,
            "train_steps": step,
            "best_fid": float("inf"),  # none was measured
        }
    write_state_dict(out, contents)
    logging.info("exported step %d of %s to %s", step, workdir, out)


def _with_tokenizer(
    config: Config | Mapping[str, Any], tokenizer: Mapping[str, Any] | None
) -> Config:
    """The config, checked, with the given tokenizer or else the dataset's."""
    if not isinstance(config, Config):
        config = read_config(config)
    if tokenizer is None:
        directory = config.data.directory
        try:
            tokenizer = read_token_dataset(directory, "train").tokenizer
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no dataset at {directory} to take the tokenizer's identity from; give the "
                "tokenizer"
            ) from error
    config = with_tokenizer(config, tokenizer)
    make_flow(config)
    return config


def _weights(file: TorchFile) -> tuple[StateDict, StateDict]:
    """Parameters and their average; the same dict twice if the file has only one."""
    there = [name for name in ("model", "ema") if name in file.sections]
    if len(there) == 2:
        return file.sections["model"], file.sections["ema"]
    only = file.state_dict(there[0] if there else None)
    logging.warning(
        "%s has %s: used both as the parameters and as their average",
        file.path,
        f"no section but {there[0]!r}" if there else "one state dict",
    )
    return only, only


def _convert(state_dict: StateDict, latte: LatteConfig, checkpoint: Path) -> dict:
    try:
        return latte_torch.from_torch(state_dict, latte)
    except ValueError as error:
        raise ValueError(
            f"{checkpoint}: {error}\nset config.model to the checkpoint's sizes, or take the "
            "tokenizer that its tokens come from"
        ) from error


def _check_window(state_dict: StateDict, config: Config) -> None:
    """Raises ValueError if the stored tables are of another grid; warns of another window."""
    sizes, grid = latte_torch.sizes_from_torch(state_dict), config.tokenizer.grid
    side, frames = sizes.get("grid_size", grid[0]), sizes.get("num_frames")
    if [side, side] != list(grid):
        raise ValueError(
            f"the checkpoint is for {side}x{side} tokens, the tokenizer makes {grid[0]}x{grid[1]}; "
            "take the tokenizer that its tokens come from"
        )
    if frames not in (None, config.data.clip_frames):
        logging.warning(
            "the checkpoint was trained on windows of %d frames, config.data.clip_frames is %d",
            frames,
            config.data.clip_frames,
        )


def _step(file: TorchFile) -> int:
    step = file.numbers.get("train_steps")
    if not isinstance(step, int) or not 0 <= step <= np.iinfo(np.int32).max:
        raise ValueError(f"{file.path} has train_steps {step!r}; set keep_step to false")
    return step
