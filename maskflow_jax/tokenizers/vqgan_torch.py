"""LDM and taming checkpoints as parameters of `VQGAN`: one table of layouts.

The module attributes of `vqgan.py` carry the published names, so a name differs in its last word
only: `kernel` is torch's `weight` with the axes of a convolution turned from OIHW to HWIO, `scale`
is the `weight` of a normalisation.
"""

import numpy as np

from maskflow_jax.tokenizers.codec import unflatten_parameters
from maskflow_jax.tokenizers.vqgan import VQGANConfig

# Parts of a training checkpoint that the autoencoder does not use.
IGNORED_PREFIXES = ("loss.", "model_ema.")


def from_torch(state_dict: dict[str, np.ndarray], config: VQGANConfig) -> dict:
    """Converts a torch state dict of an LDM or taming `VQModel`.

    Args:
        state_dict: torch parameter names to arrays.
        config: the autoencoder they belong to.

    Returns:
        The nested parameter dict of `VQGAN(config)`.

    Raises:
        ValueError: with all missing, unexpected and mis-shaped names at once (as paths of `VQGAN`).
    """
    converted = {}
    for name, array in state_dict.items():
        if name.startswith(IGNORED_PREFIXES):
            continue
        if name == "quantize.embedding.weight":
            converted["codebook"] = array
        elif name.endswith(".weight"):
            path = name.removesuffix("weight")
            if array.ndim == 4:
                converted[path + "kernel"] = array.transpose(2, 3, 1, 0)
            else:
                converted[path + "scale"] = array
        else:
            converted[name] = array
    return unflatten_parameters(converted, config, source="the torch checkpoint")
