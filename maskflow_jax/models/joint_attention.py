"""Exact joint attention over the captions and the frames of several scenes: the reference.

Mask^2DiT attends over one sequence [text_1 .. text_S, video] in every block. A query may attend to
a key if both belong to the same scene, or if both are video:

    text_i -> text_i, video_i        video_i -> text_i, video_1 .. video_S

The same attention in groups has no mask over scenes: the queries of text_s against [text_s,
video_s] and those of video_s against [text_s, all video]. Only direct attention is exclusive: after
two layers, caption i reaches the frames of scene j by way of its own frames.

The cost is that of full 3D attention, T N tokens against T N, so this is for small networks, and
the measure of what `conditioning` does in a factorised network.

Source: Qi et al., Mask^2DiT, arXiv 2503.19881, section 3.2.
"""

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from maskflow_jax.models import layers
from maskflow_jax.models.attention import attend
from maskflow_jax.scenes.conditions import Scenes

FORMS = ("dense", "grouped")


def scene_mask(
    text_scene: jax.Array, video_scene: jax.Array, text_valid: jax.Array | None = None
) -> jax.Array:
    """Which token attends to which, in the order [text, video].

    Args:
        text_scene: scene of every token of text, int [..., L].
        video_scene: scene of every token of video, int [..., M].
        text_valid: bool [..., L], which tokens of text are there; None for all. The others are seen
            by themselves only.

    Returns:
        bool [..., L + M, L + M], symmetric.
    """
    scene = jnp.concatenate([text_scene, video_scene], axis=-1)
    is_video = jnp.arange(scene.shape[-1]) >= text_scene.shape[-1]
    same = scene[..., :, None] == scene[..., None, :]
    allowed = same | (is_video[:, None] & is_video[None, :])
    if text_valid is None:
        return allowed
    valid = jnp.concatenate([text_valid, jnp.ones(video_scene.shape, bool)], axis=-1)
    both = valid[..., :, None] & valid[..., None, :]
    return (allowed & both) | jnp.eye(scene.shape[-1], dtype=bool)


class JointLayer(nnx.Module):
    """A transformer layer over the captions and the frames of all scenes.

    Args:
        width: channels D.
        num_heads: attention heads.
        rngs: random streams.
        form: "dense" for one masked attention, "grouped" for one per scene; the same function.

    Raises:
        ValueError: if the form is unknown.
    """

    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs, *, form: str = "grouped"):
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; choose one of {FORMS}")
        self.form = form
        self.attention = layers.Attention(width, num_heads, rngs, dtype=jnp.float32)
        self.mlp = layers.MLP(width, 4 * width, rngs, dtype=jnp.float32)

    def __call__(
        self, text: jax.Array, video: jax.Array, scenes: Scenes
    ) -> tuple[jax.Array, jax.Array]:
        """Applies the layer.

        Args:
            text: tokens of captions [B, S, Lt, D].
            video: tokens of frames [B, T, N, D].
            scenes: `scene_id` and `caption_mask`.

        Returns:
            Text and video, of the same shapes.
        """
        normalised = [layers.layer_norm(x, jnp.float32) for x in (text, video)]
        projected = [self.attention.queries_keys_values(x) for x in normalised]
        attended = (dense if self.form == "dense" else grouped)(*projected, scenes)
        results = []
        for x, mixed in zip((text, video), attended, strict=True):
            x = x + self.attention.output(mixed)
            results.append(x + self.mlp(layers.layer_norm(x, jnp.float32)))
        return tuple(results)


def dense(text: tuple, video: tuple, scenes: Scenes) -> tuple[jax.Array, jax.Array]:
    """One attention over all tokens with the mask of scenes.

    Args:
        text: queries, keys and values of captions, [B, S, Lt, h, d] each.
        video: those of frames, [B, T, N, h, d] each.
        scenes: `scene_id` and `caption_mask`.

    Returns:
        What the tokens of captions and of frames take from attention, of the shapes of the queries.
    """
    (batch, num_scenes, length), (_, frames, patches) = text[0].shape[:3], video[0].shape[:3]
    text_scene = einops.repeat(jnp.arange(num_scenes), "s -> b (s l)", b=batch, l=length)
    mask = scene_mask(
        text_scene,
        einops.repeat(scenes.scene_id, "b t -> b (t n)", n=patches),
        einops.rearrange(scenes.caption_mask, "b s l -> b (s l)"),
    )
    query, key, value = (
        jnp.concatenate([_flat(of_text), _flat(of_video)], axis=1)
        for of_text, of_video in zip(text, video, strict=True)
    )
    attended = attend(query, key, value, mask=mask, implementation="xla")
    of_text, of_video = jnp.split(attended, [num_scenes * length], axis=1)
    return (
        einops.rearrange(of_text, "b (s l) h d -> b s l h d", s=num_scenes),
        einops.rearrange(of_video, "b (t n) h d -> b t n h d", t=frames),
    )


def grouped(text: tuple, video: tuple, scenes: Scenes) -> tuple[jax.Array, jax.Array]:
    """The same as `dense`, scene by scene: nothing that a mask of scenes would hide is computed.

    Frames are taken one by one, each against its caption and all video, so that scenes may have any
    lengths. Arguments and result are those of `dense`.
    """
    query, key, value = text
    num_scenes, length = query.shape[1:3]
    frame_query, frame_key, frame_value = video
    frames, patches = frame_query.shape[1:3]
    belongs = scenes.scene_id[:, None, :] == jnp.arange(num_scenes)[None, :, None]  # [B, S, T]
    of_texts = []
    for s in range(num_scenes):
        valid = scenes.caption_mask[:, s, None, :] & scenes.caption_mask[:, s, :, None]
        valid = valid | jnp.eye(length, dtype=bool)
        in_scene = einops.repeat(belongs[:, s], "b t -> b l (t n)", l=length, n=patches)
        in_scene = in_scene & scenes.caption_mask[:, s, :, None]
        keys = jnp.concatenate([key[:, s], _flat(frame_key)], axis=1)
        values = jnp.concatenate([value[:, s], _flat(frame_value)], axis=1)
        mask = jnp.concatenate([valid, in_scene], axis=2)
        of_texts.append(attend(query[:, s], keys, values, mask=mask, implementation="xla"))
    of_frames = []
    for f in range(frames):
        own = jax.vmap(lambda a, s: a[s])
        scene = scenes.scene_id[:, f]
        keys = jnp.concatenate([own(key, scene), _flat(frame_key)], axis=1)
        values = jnp.concatenate([own(value, scene), _flat(frame_value)], axis=1)
        valid = own(scenes.caption_mask, scene)
        everything = jnp.ones((len(valid), frames * patches), bool)
        mask = jnp.concatenate([valid, everything], axis=1)[:, None]
        mask = jnp.broadcast_to(mask, (len(valid), patches, mask.shape[2]))
        of_frames.append(attend(frame_query[:, f], keys, values, mask=mask, implementation="xla"))
    return jnp.stack(of_texts, axis=1), jnp.stack(of_frames, axis=1)


def _flat(a: jax.Array) -> jax.Array:
    return einops.rearrange(a, "b x y h d -> b (x y) h d")
