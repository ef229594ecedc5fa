"""Floating-point operations of a Latte, counted from its shape.

Matrix products only, two operations per multiply and add: what a device's peak is stated for. For a
window of T frames of N patches, width D, depth L, MLP ratio r, patch side p and K codes:

    per block    T N (8 + 4 r) D^2   projections and MLP
                 4 T N A D           attention over A = N patches or A = T frames
                 12 T D^2            modulation, once a frame
    outside      2 T N p^2 (D / 2) D embedding, 4 T D^2 final modulation, 512 T D + 2 T D^2 time
    head         2 T N D p^2 K

Captions of S scenes of Lt tokens add, with M tokens that a frame sees (Lt, or S Lt of all scenes):

    per pair     4 S Lt D^2 + 4 T N M D                     keys and values, frames to captions
    with update  (8 + 4 r) S Lt D^2 instead of the first, and 4 S Lt (Lt + T N) D
    outside      2 S Lt D_text D                            projection of embeddings
"""

from maskflow_jax.models.latte import LatteConfig
from maskflow_jax.models.layers import TIME_FREQUENCIES

Captions = tuple[int, int]
"""Number of scenes S and of tokens of a caption Lt."""


def features_flops(
    config: LatteConfig, num_frames: int, grid_size: int, captions: Captions | None = None
) -> int:
    """Operations of `Latte.features` for one sample.

    Args:
        config: the network.
        num_frames: T.
        grid_size: tokens along a side of a frame.
        captions: numbers of captions and of their tokens, if the frames see any.

    Returns:
        Floating-point operations.
    """
    frames, patches = num_frames, (grid_size // config.patch_size) ** 2
    width, tokens = config.width, num_frames * patches
    blocks = config.depth * (
        tokens * (8 + 4 * config.mlp_ratio) * width**2 + 12 * frames * width**2
    )
    attention = config.depth // 2 * 4 * tokens * (patches + frames) * width
    embedding = 2 * tokens * config.patch_size**2 * (width // 2) * width
    time = 2 * frames * (TIME_FREQUENCIES * width + width**2)
    text = _captions_flops(config, tokens, captions) if captions else 0
    return blocks + attention + embedding + time + text + 4 * frames * width**2


def _captions_flops(config: LatteConfig, tokens: int, captions: Captions) -> int:
    """What captions add, `tokens` the number of patches of a window."""
    (num_scenes, length), conditions, width = captions, config.conditions, config.width
    words = num_scenes * length
    seen = words if conditions.scope == "all" else length
    per_pair = 4 * words * width**2 + 4 * tokens * seen * width
    if conditions.text_update:
        per_pair += (4 + 4 * config.mlp_ratio) * words * width**2
        per_pair += 4 * words * (length + tokens) * width
    return config.depth // 2 * per_pair + 2 * words * conditions.text_width * width


def head_flops(config: LatteConfig, num_frames: int, grid_size: int) -> int:
    """Operations of `Latte.logits` for one sample; arguments as `features_flops`."""
    tokens = num_frames * grid_size**2  # p^2 K outputs for each of N patches
    return 2 * tokens * config.width * config.codebook_size


def training_flops(
    config: LatteConfig, num_frames: int, grid_size: int, captions: Captions | None = None
) -> int:
    """Operations of loss and gradient for one sample: three forwards.

    What rematerialisation computes again is not counted: it is no work of the model.
    """
    forward = features_flops(config, num_frames, grid_size, captions)
    return 3 * (forward + head_flops(config, num_frames, grid_size))
