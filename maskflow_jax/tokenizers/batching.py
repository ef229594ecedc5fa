"""Frames through a network in batches of one size, and how large that size may be.

All batches have one size, so a network is compiled once; the last one is padded and cut. The size
follows from the memory that one frame takes at the widest place of the network, which for images of
256x256 is a third of a gigabyte.
"""

from collections.abc import Callable

import numpy as np

from maskflow_jax.tokenizers.vqgan import VQGANConfig

DEFAULT_MEMORY_GB = 4.0
MAX_BATCH_SIZE = 64  # more gains no speed, and the padding of short videos costs more

# How many copies of its widest feature map, its distances to the codes and its attention weights
# a compiled network holds at once, at most. They are never all at their largest together.
_LIVE_MAPS, _LIVE_DISTANCES, _LIVE_ATTENTION = 5, 2, 4


def bytes_per_frame(config: VQGANConfig, itemsize: int = 4) -> int:
    """Estimates from above what encoding or decoding takes for each frame of a batch.

    Args:
        config: The autoencoder.
        itemsize: Bytes of a number within the network.

    Returns:
        Bytes beside the parameters.
    """
    # The decoder's second level reaches full resolution before it narrows.
    width = max(config.widths[:2])
    maps = _LIVE_MAPS * config.frame_size**2 * width * itemsize
    positions = config.grid_size**2
    distances = _LIVE_DISTANCES * positions * config.codebook_size * 4
    sides = [config.grid_size] if config.middle_attention else []
    sides += [
        side
        for level in range(len(config.widths))
        if (side := config.frame_size // 2**level) in config.attention_resolutions
    ]
    attention = _LIVE_ATTENTION * max(sides, default=0) ** 4 * 4
    return max(maps, distances, attention)


def choose_batch_size(frame_bytes: int, memory_gb: float | None, num_devices: int) -> int:
    """Chooses how many frames all devices take together.

    Args:
        frame_bytes: Memory that one frame takes.
        memory_gb: Memory of each device to use, in 1e9 bytes; None for the default.
        num_devices: Devices that share a batch.

    Returns:
        A multiple of the number of devices, the largest of at most `MAX_BATCH_SIZE` that fits.

    Raises:
        ValueError: if not even one frame fits.
    """
    memory_gb = DEFAULT_MEMORY_GB if memory_gb is None else memory_gb
    fitting = int(memory_gb * 1e9 // frame_bytes)
    if fitting < 1:
        raise ValueError(
            f"memory_gb {memory_gb:g} does not hold one frame, which takes about "
            f"{frame_bytes / 1e9:.2g}; raise it"
        )
    return num_devices * max(1, min(fitting, MAX_BATCH_SIZE // num_devices))


def in_batches(
    function: Callable[[np.ndarray], np.ndarray],
    items: np.ndarray,
    batch_size: int,
    *,
    pad: bool = True,
) -> np.ndarray:
    """Applies a function of `batch_size` items to any number of them.

    Args:
        function: Function from [batch_size, ...] to [batch_size, ...].
        items: [F, ...], F may be 0.
        batch_size: Items of one call.
        pad: Whether to fill up the last batch; otherwise it is shorter, with at least one item.

    Returns:
        [F, ...], as if there were no batches.
    """
    outputs = []
    for start in range(0, max(len(items), 1), batch_size):
        batch = items[start : start + batch_size]
        missing = (batch_size if pad else max(len(batch), 1)) - len(batch)
        padding = [(0, missing)] + [(0, 0)] * (items.ndim - 1)
        outputs.append(np.asarray(function(np.pad(batch, padding)))[: len(batch)])
    return np.concatenate(outputs)


def check_frames(frames: np.ndarray, identity: dict) -> None:
    """Raises ValueError unless frames are uint8 [F, S, S, 3] of the tokenizer's size."""
    side = identity["frame_size"]
    if frames.dtype != np.uint8 or frames.shape[1:] != (side, side, 3):
        raise ValueError(
            f"tokenizer {identity['name']} takes uint8 frames [F, {side}, {side}, 3], got "
            f"{frames.dtype} {list(frames.shape)}; crop and resize the video first"
        )


def check_tokens(tokens: np.ndarray, identity: dict) -> None:
    """Raises ValueError unless tokens are integers [F, h, w], indices into the codebook all."""
    codebook_size = identity["codebook_size"]
    if list(tokens.shape[1:]) != identity["grid"]:
        raise ValueError(
            f"tokenizer {identity['name']} decodes grids of {identity['grid']} tokens, got "
            f"{list(tokens.shape)}"
        )
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < codebook_size):
        raise ValueError(
            f"tokens span [{tokens.min()}, {tokens.max()}] but the codebook has entries 0 to "
            f"{codebook_size - 1}; a mask token ({codebook_size}) must be sampled, not decoded"
        )
