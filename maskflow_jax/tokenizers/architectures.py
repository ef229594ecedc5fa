"""The architectures that a tokenizer of this project may have, by the `kind` in its `config.json`.

A new one is a file with a config dataclass, a network with `encode`, `nearest_code`, `decode` and
`codebook`, and a row here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from maskflow_jax.tokenizers import batching, patch_vq
from maskflow_jax.tokenizers.patch_vq import PatchVQConfig
from maskflow_jax.tokenizers.vqgan import VQGANConfig, abstract_vqgan

TokenizerConfig = VQGANConfig | PatchVQConfig
DEFAULT_KIND = "vqgan"  # of files that were written before there was a choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the rest of the package needs to know about an architecture.

    Attributes:
        config: Its config dataclass.
        abstract: Maps a config to the network's graph and the shapes of its parameters.
        bytes_per_frame: Maps a config and the bytes of a number to the memory a frame takes.
        weights: Type in which parameters are stored, "float32" or "float16".
    """

    config: type
    abstract: Callable[[Any], tuple[nnx.GraphDef, dict]]
    bytes_per_frame: Callable[[Any, int], int]
    weights: str


ARCHITECTURES = {
    "vqgan": Architecture(
        config=VQGANConfig,
        abstract=abstract_vqgan,
        bytes_per_frame=batching.bytes_per_frame,
        weights="float32",
    ),
    "patch_vq": Architecture(
        config=PatchVQConfig,
        abstract=patch_vq.abstract_patch_vq,
        bytes_per_frame=patch_vq.bytes_per_frame,
        weights="float16",
    ),
}


def architecture_of(config: TokenizerConfig) -> Architecture:
    """The architecture that a config belongs to."""
    return ARCHITECTURES[_kind_of(config)]


def config_to_json(config: TokenizerConfig) -> dict[str, Any]:
    """A config as JSON values; the default kind is left out, as in older files."""
    kind = _kind_of(config)
    return ({} if kind == DEFAULT_KIND else {"kind": kind}) | dataclasses.asdict(config)


def config_from_json(settings: Mapping[str, Any]) -> TokenizerConfig:
    """Reads what `config_to_json` wrote.

    Raises:
        TypeError: If a setting is unknown or missing.
        ValueError: If the kind is unknown, or a setting impossible.
    """
    kind = settings.get("kind", DEFAULT_KIND)
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"config.json asks for a tokenizer of kind {kind!r}, this version has "
            f"{', '.join(ARCHITECTURES)}: use the version that wrote it"
        )
    rest = {name: value for name, value in settings.items() if name != "kind"}
    return ARCHITECTURES[kind].config(**rest)


def _kind_of(config: TokenizerConfig) -> str:
    return next(kind for kind, known in ARCHITECTURES.items() if isinstance(config, known.config))
