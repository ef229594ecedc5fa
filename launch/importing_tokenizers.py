"""Published VQ autoencoders of torch as tokenizers of this project."""

import json
from pathlib import Path
from typing import Any

import yaml
from absl import logging

from maskflow_jax.io.torch_files import StateDict, read_torch_file
from maskflow_jax.tokenizers import vqgan_configs
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer
from maskflow_jax.tokenizers.vqgan import VQGANConfig, parameter_count
from maskflow_jax.tokenizers.vqgan_torch import autoencoder_weights, from_torch


def import_tokenizer(
    checkpoint: Path,
    out: Path,
    *,
    preset: str | None = None,
    config_file: Path | None = None,
    frame_size: int | None = None,
) -> dict[str, Any]:
    """Turns a file of torch weights into a tokenizer's folder.

    Without a preset and a config file the weights tell what they are.

    Args:
        checkpoint: an LDM or taming `VQModel`: a torch pickle or `.safetensors`.
        out: folder to write; its name becomes the tokenizer's.
        preset: name of a published autoencoder.
        config_file: the model's config, YAML or JSON.
        frame_size: side of the frames in pixels, if not the one of the preset or the config file.

    Returns:
        The identity of the tokenizer that was written.

    Raises:
        FileExistsError: if the folder holds a tokenizer already.
        FileNotFoundError: if a file is missing.
        ImportError: if torch is needed and missing.
        ValueError: if a file cannot be read or the weights do not fit; every mismatch is named.
    """
    if preset and config_file:
        raise ValueError("--preset and --config_file say the same; give one of them")
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} holds a tokenizer already; choose another folder")
    given = _given_config(preset, config_file)
    weights, ignored = autoencoder_weights(_read(checkpoint))
    if given is None:
        config = vqgan_configs.config_from_weights(weights, frame_size)
    else:
        config = vqgan_configs.at_frame_size(given, frame_size or given.frame_size)
    params = _convert(weights, config)
    save_tokenizer(out, config, params)
    identity = Tokenizer.load(out).identity
    for reason, count in ignored.items():
        logging.info("ignored %d arrays: %s", count, reason)
    logging.info(
        "imported %s (%s, %.2f M parameters) into %s: %d codes, %d pixels to %s tokens, sha256 %s",
        checkpoint,
        vqgan_configs.preset_of(config) or "no preset",
        parameter_count(config) / 1e6,
        out,
        config.codebook_size,
        config.frame_size,
        "x".join(map(str, identity["grid"])),
        identity["sha256"],
    )
    return identity


def read_settings(path: Path) -> dict:
    """Reads a YAML or JSON file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged or holds no settings.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config file at {path}; correct the path")
    try:
        # YAML holds plain values here: the safe loader builds no objects.
        read = json.loads if path.suffix == ".json" else yaml.safe_load
        settings = read(path.read_text())
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is no YAML or JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings but a {type(settings).__name__}")
    return settings


def _given_config(preset: str | None, config_file: Path | None) -> VQGANConfig | None:
    if preset is not None and preset not in vqgan_configs.PRESETS:
        raise ValueError(f"no preset {preset!r}; there are: {', '.join(vqgan_configs.PRESETS)}")
    if preset is not None:
        return vqgan_configs.PRESETS[preset]
    if config_file is not None:
        settings = read_settings(config_file)
        return vqgan_configs.config_from_settings(settings, source=str(config_file))
    return None


def _read(checkpoint: Path) -> StateDict:
    """The state dict of a checkpoint; Lightning's stands beside other sections."""
    file = read_torch_file(checkpoint)
    return file.state_dict("state_dict" if "state_dict" in file.sections else None)


def _convert(weights: StateDict, config: VQGANConfig) -> dict:
    """`from_torch`, which where it fails says what the weights seem to be."""
    try:
        return from_torch(weights, config)
    except ValueError as mismatch:
        try:
            found = vqgan_configs.config_from_weights(weights, config.frame_size)
        except ValueError as error:
            raise mismatch from error
        if found == config:
            raise
        name = vqgan_configs.preset_of(found)
        hint = (
            f"the weights look like --preset={name}" if name else f"the weights look like {found}"
        )
        raise ValueError(f"{mismatch}\n{hint}") from mismatch
