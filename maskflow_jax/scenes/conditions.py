"""What the frames of a window are conditioned on: to which scene each belongs, and its caption.

`scene_id` is data, not shape: scenes of other lengths need no new program. A condition is given per
scene, never per frame. Null conditions, which stand for "nothing is said", are the label
`NULL_LABEL` and a caption of which no token is valid; the same two arrays therefore serve dropped
captions in training, the null branch of guidance, and scenes of which nothing is known.

Source: Qi et al., Mask^2DiT, arXiv 2503.19881: a caption is seen by the frames of its scene only.
"""

from typing import Any, NamedTuple

import numpy as np

NULL_LABEL = -1


class Scenes(NamedTuple):
    """Conditions of a batch of windows, arrays of numpy or jax.

    Attributes:
        scene_id: int32 [B, T], the scene of every frame, 0 to S - 1.
        labels: int32 [B, S], a label of every scene or `NULL_LABEL`; None where captions are used.
        captions: int32 [B, S, Lt], word ids, or float [B, S, Lt, D_text], embeddings of an encoder;
            None where labels are used.
        caption_mask: bool [B, S, Lt], which of these positions hold a token.
    """

    scene_id: Any
    labels: Any = None
    captions: Any = None
    caption_mask: Any = None


def drop(scenes: Scenes, dropped: Any) -> Scenes:
    """Replaces all conditions of some windows by null conditions.

    Args:
        scenes: The conditions.
        dropped: bool [B].

    Returns:
        The conditions, null in the windows that are dropped.
    """
    labels, mask = scenes.labels, scenes.caption_mask
    if labels is not None:
        labels = labels * ~dropped[:, None] + NULL_LABEL * dropped[:, None]
    if mask is not None:
        mask = mask & ~dropped[:, None, None]
    return scenes._replace(labels=labels, caption_mask=mask)


def null(scenes: Scenes) -> Scenes:
    """Returns conditions of the same shapes that say nothing."""
    return drop(scenes, scenes.scene_id[:, 0] == scenes.scene_id[:, 0])


def of_frames(scenes: Scenes | None, frames: slice) -> Scenes | None:
    """Returns the conditions of some of the frames."""
    return None if scenes is None else scenes._replace(scene_id=scenes.scene_id[:, frames])


def stack(scenes: list[Scenes]) -> Scenes:
    """Makes a batch of conditions without a batch axis, as numpy arrays."""
    return Scenes(
        *(None if parts[0] is None else np.stack(parts) for parts in zip(*scenes, strict=True))
    )


class SceneClips(NamedTuple):
    """Clips with their conditions; without a batch axis, one clip.

    Attributes:
        tokens: int32 [B, T, h, w].
        scenes: The conditions.
    """

    tokens: Any
    scenes: Scenes
