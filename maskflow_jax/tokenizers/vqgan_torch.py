"""LDM and taming checkpoints as parameters of `VQGAN`: which of their weights, and in what layout.

The module attributes of `vqgan.py` carry the published names, so a name differs in its last word
only: `kernel` is torch's `weight` with the axes of a convolution turned from OIHW to HWIO, `scale`
is the `weight` of a normalisation, and the codebook is `quantize.embedding.weight`.

Assumed of the two formats, from their public descriptions: the autoencoders of both have the same
parameters under the same names (attention is four 1x1 convolutions `q`, `k`, `v`, `proj_out`), and
neither is conditioned on time (no `temb_proj`). A training checkpoint holds more, which is ignored
by name and counted. `quantize.used` belongs to a renumbering of the tokens (`remap`) that leaves
the images alone: tokens here are always indices into the whole codebook. A model of the second
stage holds its tokenizer under `first_stage_model.`, where it is found too.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from flax import nnx

from maskflow_jax.io.weights import check_finite, check_weights
from maskflow_jax.tokenizers.vqgan import VQGANConfig, abstract_vqgan

CODEBOOK = "quantize.embedding.weight"
FIRST_STAGE = "first_stage_model."

# What a training checkpoint holds beside the autoencoder, by how the names begin.
IGNORED = {
    "loss.": "loss and discriminator",
    "model_ema.": "running averages",
    "quantize.used": "renumbering of tokens",
    "colorize": "colours of segmentation maps",
}

# Names that tell what a file is if it is no VQModel, and what to do about it.
_FOREIGN = {
    "quantize.embed.weight": "its quantiser is a Gumbel softmax",
    "encoder.down_blocks": "it is in the format of diffusers",
    "model.diffusion_model.": "it is a diffusion model without its tokenizer",
    "encoder.conv_in.weight": "it has no codebook, like a KL autoencoder",
}


def autoencoder_weights(
    state_dict: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Counter]:
    """Picks the autoencoder out of a checkpoint.

    Args:
        state_dict: Torch parameter names to arrays.

    Returns:
        The autoencoder's arrays under the names that a `VQModel` gives them, and how many others
        were ignored, by what they are.

    Raises:
        ValueError: if the checkpoint is recognised as something else.
    """
    ignored: Counter = Counter()
    weights = dict(state_dict)
    if CODEBOOK not in weights and FIRST_STAGE + CODEBOOK in weights:
        inner = {name: x for name, x in weights.items() if name.startswith(FIRST_STAGE)}
        ignored["second stage"] = len(weights) - len(inner)
        weights = {name.removeprefix(FIRST_STAGE): x for name, x in inner.items()}
    for name in list(weights):
        for prefix, reason in IGNORED.items():
            if name.startswith(prefix):
                del weights[name]
                ignored[reason] += 1
                break
    if CODEBOOK not in weights:
        for prefix, reason in _FOREIGN.items():
            if any(name.startswith(prefix) for name in weights):
                raise ValueError(
                    f"the checkpoint is no VQModel of LDM or taming-transformers: {reason}; if "
                    "it makes tokens in torch, export it as programs of torch (`export_tokenizer`)"
                )
    return weights, ignored


def from_torch(state_dict: Mapping[str, np.ndarray], config: VQGANConfig) -> dict:
    """Converts a torch state dict of an LDM or taming `VQModel`.

    Args:
        state_dict: Torch parameter names to arrays.
        config: The autoencoder they belong to.

    Returns:
        The nested parameter dict of `VQGAN(config)`, float32.

    Raises:
        ValueError: with all missing, unexpected and mis-shaped names at once.
    """
    weights, _ = autoencoder_weights(state_dict)
    wanted = nnx.traversals.flatten_mapping(abstract_vqgan(config)[1])
    names = {_torch_name(path): path for path in wanted}
    shapes = {name: _torch_shape(wanted[path].shape) for name, path in names.items()}
    found = {name: array.shape for name, array in weights.items()}
    check_weights(found, shapes, "the torch checkpoint does not fit the tokenizer's config:")
    check_finite(weights, "the torch checkpoint")
    return nnx.traversals.unflatten_mapping(
        {path: _from_torch_layout(weights[name]) for name, path in names.items()}
    )


def _torch_name(path: tuple) -> str:
    """The published name of the parameter at a path."""
    if path == ("codebook",):
        return CODEBOOK
    *module, last = map(str, path)
    return ".".join([*module, "weight" if last in ("kernel", "scale") else last])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution's [H, W, I, O] as [O, I, H, W]; other shapes as they are."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    """A convolution's [O, I, H, W] as [H, W, I, O]; other arrays as they are."""
    array = np.asarray(array, np.float32)
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array
