"""The shape of a published VQ autoencoder: by its name, its config file, or its weights alone.

Everything but two numbers follows from the weights: the groups of their normalisations, 32 in all
published models, and the size of the frames, for which any multiple of the downsampling factor
fits. The network that attends at 32 pixels of 256 is the one that attends at 16 of 128, so
attention follows the resolution level, not the number in the config.

Sources: the model zoos of latent-diffusion (vq-*) and taming-transformers (vqgan_imagenet_f16_*).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskflow_jax.tokenizers.vqgan import VQGANConfig

_F16 = {"width_multipliers": (1, 1, 2, 2, 4), "attention_resolutions": (16,)}

# Frames of 256x256, base width 128 and two residual blocks, as VQGANConfig has them by default.
PRESETS = {
    "ldm-vq-f4": VQGANConfig(
        width_multipliers=(1, 2, 4),
        attention_resolutions=(),
        z_channels=3,
        embed_dim=3,
        codebook_size=8192,
    ),
    "ldm-vq-f8": VQGANConfig(),
    "ldm-vq-f8-n256": VQGANConfig(codebook_size=256),
    "ldm-vq-f16": VQGANConfig(z_channels=8, embed_dim=8, **_F16),
    "taming-f16-1024": VQGANConfig(z_channels=256, embed_dim=256, codebook_size=1024, **_F16),
    "taming-f16-16384": VQGANConfig(z_channels=256, embed_dim=256, **_F16),
}

# Settings of `ddconfig` that only work as given; an absent one has this value.
_ONLY = {
    "in_channels": 3,
    "out_ch": 3,
    "double_z": False,
    "resamp_with_conv": True,
    "tanh_out": False,
    "give_pre_end": False,
    "use_linear_attn": False,
}
_RENAMED = {
    "resolution": "frame_size",
    "ch": "base_width",
    "ch_mult": "width_multipliers",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attention_resolutions",
    "z_channels": "z_channels",
}


def at_frame_size(config: VQGANConfig, frame_size: int) -> VQGANConfig:
    """The same network for frames of another size: it attends at the same levels.

    Args:
        config: An autoencoder.
        frame_size: Side of the frames in pixels.

    Raises:
        ValueError: if the size is not a multiple of the downsampling factor.
    """
    levels = [
        level
        for level in range(len(config.width_multipliers))
        if config.frame_size // 2**level in config.attention_resolutions
    ]
    return dataclasses.replace(
        config,
        frame_size=frame_size,
        attention_resolutions=tuple(frame_size // 2**level for level in levels),
    )


def preset_of(config: VQGANConfig) -> str | None:
    """The name of the published autoencoder that a config is, whatever its frame size."""
    for name, preset in PRESETS.items():
        if at_frame_size(config, preset.frame_size) == preset:
            return name
    return None


def config_from_weights(weights: Mapping[str, np.ndarray], frame_size: int | None) -> VQGANConfig:
    """Reads an autoencoder's config off the names and shapes of its weights.

    Args:
        weights: Torch parameter names to arrays, as `vqgan_torch.autoencoder_weights` returns them.
        frame_size: Side of the frames in pixels; None if the weights are those of a preset, whose
            size then applies.

    Raises:
        ValueError: naming everything that does not follow from the weights.
    """
    settings = _settings_of(weights)
    levels = settings.pop("attention_levels")
    factor = 2 ** (len(settings["width_multipliers"]) - 1)

    def build(side: int) -> VQGANConfig:
        resolutions = tuple(side // 2**level for level in levels)
        return VQGANConfig(frame_size=side, attention_resolutions=resolutions, **settings)

    if frame_size is not None:
        return build(frame_size)
    # Any size that can be halved that often names the network.
    if name := preset_of(build(64 * factor)):
        return PRESETS[name]
    found = ", ".join(f"{name} {value}" for name, value in settings.items())
    raise ValueError(
        f"the weights ({found}) are of no preset and leave something open; needed:\n"
        f"  the size of the frames: frame_size, a multiple of {factor}, best that of its training, "
        "or config_file, the model's own config.yaml (ddconfig.resolution)"
    )


def config_from_settings(settings: Mapping[str, Any], *, source: str) -> VQGANConfig:
    """Reads a config file of LDM or taming-transformers, or of this project.

    Args:
        settings: Contents of the file: a `model` section, its `params`, or our config.json.
        source: Name of the file, for errors.

    Raises:
        ValueError: with all that is missing or not supported.
    """
    if settings.keys() <= {field.name for field in dataclasses.fields(VQGANConfig)} and settings:
        return VQGANConfig(**settings)
    settings = _params(settings)
    network = settings.get("ddconfig", {})
    if not isinstance(network, Mapping):
        raise ValueError(f"{source}: ddconfig is {network!r}, not a section")
    needed = {f"ddconfig.{name}": network.get(name) for name in _RENAMED}
    needed |= {name: settings.get(name) for name in ("n_embed", "embed_dim")}
    problems = [f"missing {name}" for name, value in needed.items() if value is None]
    problems += [
        f"ddconfig.{name} is {network[name]!r}, only {value!r} is supported"
        for name, value in _ONLY.items()
        if network.get(name, value) != value
    ]
    attention = network.get("attn_type", "vanilla")
    if attention not in ("vanilla", "none"):
        problems.append(f"ddconfig.attn_type is {attention!r}, only vanilla and none are supported")
    if problems:
        raise ValueError("\n  ".join([f"{source} describes no VQModel that fits here:", *problems]))
    config = {ours: network[theirs] for theirs, ours in _RENAMED.items()}
    if attention == "none":
        config |= {"attention_resolutions": (), "middle_attention": False}
    return VQGANConfig(codebook_size=settings["n_embed"], embed_dim=settings["embed_dim"], **config)


def _params(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost `params` that describe an autoencoder."""
    for name in ("model", "first_stage_config", "params"):
        inner = settings.get(name)
        if "ddconfig" not in settings and isinstance(inner, Mapping):
            return _params(inner)
    return settings


def _settings_of(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """VQGANConfig's settings but the frame size, and `attention_levels`."""
    shapes = {name: tuple(array.shape) for name, array in weights.items()}
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    telling = {
        "base_width": "encoder.conv_in.weight",
        "z_channels": "encoder.conv_out.weight",
        "embed_dim": "quant_conv.weight",
        "codebook_size": "quantize.embedding.weight",
    }
    firsts = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(max(levels, 1))]
    if missing := [name for name in [*telling.values(), *firsts] if not shapes.get(name)]:
        heading = "the checkpoint is no VQModel of LDM or taming-transformers, it lacks:"
        raise ValueError("\n  ".join([heading, *missing]))
    settings: dict[str, Any] = {name: shapes[key][0] for name, key in telling.items()}
    base_width, widths = settings["base_width"], [shapes[name][0] for name in firsts]
    if uneven := [width for width in widths if width % base_width]:
        raise ValueError(
            f"levels of {uneven} channels are no whole multiples of the first convolution's "
            f"{base_width}; export such an autoencoder as programs of torch (`export_tokenizer`)"
        )
    settings["width_multipliers"] = tuple(width // base_width for width in widths)
    settings["num_res_blocks"] = _count(shapes, r"encoder\.down\.0\.block\.(\d+)\.")
    settings["middle_attention"] = "encoder.mid.attn_1.q.weight" in shapes
    settings["attention_levels"] = [
        level for level in range(levels) if f"encoder.down.{level}.attn.0.q.weight" in shapes
    ]
    return settings


def _count(names: Mapping[str, Any], pattern: str) -> int:
    """How many different numbers follow a pattern at the beginning of names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})
