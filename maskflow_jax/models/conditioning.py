"""Conditions of a network on scenes: labels, and captions that frames attend to.

A label adds its embedding to the time embedding of the frames of its scene. The tokens of a caption
are further keys and values in the spatial blocks of these frames: the caption is gathered by
`scene_id` and never masked, so a frame sees the caption of its own scene and no other, at the cost
of that caption alone. Temporal blocks see no text. In a factorised network this is what Mask^2DiT's
symmetric mask says, with one difference: all frames see all frames over the depth, not in a layer.

With `text_update` the tokens of a caption change from block to block as well: they attend to
themselves and to all tokens of the frames of their scene.

Source: Qi et al., Mask^2DiT, arXiv 2503.19881, section 3.2.
"""

import dataclasses
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from maskflow_jax.models import layers
from maskflow_jax.models.attention import attend
from maskflow_jax.scenes.conditions import Scenes

SCOPES = ("scene", "all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a network is conditioned on: labels, words or embeddings, one of the three.

    Attributes:
        num_labels: Number of labels of scenes.
        num_words: Number of words of captions, of which the network learns embeddings.
        text_width: Channels of captions that an encoder has embedded.
        text_update: Whether the tokens of captions change from block to block.
        scope: Which captions a frame sees: that of its "scene", or "all" of the window, which is
            an ablation.
    """

    num_labels: int = 0
    num_words: int = 0
    text_width: int = 0
    text_update: bool = False
    scope: str = "scene"

    def __post_init__(self):
        """Raises ValueError for conditions that cannot be built."""
        given = [self.num_labels, self.num_words, self.text_width]
        if min(given) < 0 or sum(number > 0 for number in given) != 1:
            raise ValueError(
                f"num_labels {given[0]}, num_words {given[1]}, text_width {given[2]}: give one of "
                "them, which says what the network is conditioned on"
            )
        if self.scope not in SCOPES:
            raise ValueError(f"scope is {self.scope!r}; choose one of {SCOPES}")
        if self.num_labels and (self.text_update or self.scope != "scene"):
            raise ValueError("text_update and scope are of captions; leave them out with labels")

    @property
    def by_captions(self) -> bool:
        """Whether the conditions are captions, not labels."""
        return not self.num_labels

    def check(self, scenes: Scenes) -> None:
        """Checks that conditions are of the kind that the network takes.

        Raises:
            ValueError: if they are not, naming what is given and what is taken.
        """
        taken = (
            f"{self.num_labels} labels"
            if self.num_labels
            else f"{self.num_words} words"
            if self.num_words
            else f"captions that are embedded in {self.text_width} channels"
        )
        given = "nothing" if scenes.labels is None else "labels"
        fits = bool(self.num_labels) == (scenes.labels is not None)
        if scenes.captions is not None:
            width = scenes.captions.shape[3] if scenes.captions.ndim == 4 else 0
            given = f"captions that are embedded in {width} channels" if width else "words"
            fits = self.by_captions and width == self.text_width
        if not fits:
            raise ValueError(
                f"the network is conditioned on {taken}, and {given} were given; encode the "
                "captions with the encoder of its training"
            )


class CaptionKeys(NamedTuple):
    """What the frames see of captions in one block.

    Attributes:
        keys: [B, T, M, h, d].
        values: likewise.
        mask: bool [B, T, M].
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


class SceneEmbedding(nnx.Module):
    """Conditions as vectors: of labels for the modulation, of captions for attention."""

    def __init__(self, conditions: Conditions, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype):
        self.conditions = conditions
        if conditions.num_labels:
            # One row more than labels: the null label. Float32, as the embedding of times is.
            self.label_embedding = nnx.Embed(
                conditions.num_labels + 1,
                width,
                dtype=jnp.float32,
                embedding_init=jax.nn.initializers.normal(0.02),
                rngs=rngs,
            )
        elif conditions.num_words:
            self.word_embedding = nnx.Embed(
                conditions.num_words,
                width,
                dtype=dtype,
                embedding_init=jax.nn.initializers.normal(1.0),
                rngs=rngs,
            )
        else:
            self.caption_projection = layers.linear(conditions.text_width, width, rngs, dtype=dtype)

    def of_labels(self, scenes: Scenes | None, shape: tuple[int, int]) -> jax.Array:
        """Embeds the label of every frame, float32 [B, T, D]; the null label without scenes."""
        num_labels = self.conditions.num_labels
        if scenes is None:
            return self.label_embedding(jnp.full(shape, num_labels))
        labels = jnp.take_along_axis(scenes.labels, scenes.scene_id, axis=1)  # [B, T]
        return self.label_embedding(jnp.where(labels < 0, num_labels, labels))

    def of_captions(self, scenes: Scenes) -> jax.Array:
        """Embeds the tokens of captions and their places, [B, S, Lt, D]."""
        if self.conditions.num_words:
            text = self.word_embedding(scenes.captions)
        else:
            text = layers.apply_flat(self.caption_projection, scenes.captions)
        positions = layers.sincos_1d(range(text.shape[2]), text.shape[3])
        return text.astype(jnp.float32) + jnp.asarray(positions, jnp.float32)


class TextBranch(nnx.Module):
    """The part of a spatial block that captions go through.

    Attention has projections of its own for text. Where captions are updated, an MLP follows, and
    both are gated by channel, with gates that start at zero; frames have different times, so the
    text is not modulated by any.
    """

    def __init__(
        self,
        conditions: Conditions,
        rngs: nnx.Rngs,
        *,
        width: int,
        num_heads: int,
        mlp_ratio: int,
        dtype: jnp.dtype,
        kernel: str,
    ):
        self.conditions, self.num_heads = conditions, num_heads
        self.dtype, self.kernel = dtype, kernel
        if conditions.text_update:
            self.attention = layers.Attention(width, num_heads, rngs, dtype=dtype)
            self.mlp = layers.MLP(width, mlp_ratio * width, rngs, dtype=dtype)
            self.gates = nnx.Param(jnp.zeros((2, width)))
        else:
            self.kv = layers.linear(width, 2 * width, rngs, dtype=dtype)

    def projections(self, text: jax.Array) -> tuple[jax.Array | None, jax.Array, jax.Array]:
        """Queries (None without update), keys and values of text [B, S, Lt, D], [..., h, d]."""
        text = layers.layer_norm(text, self.dtype)
        if self.conditions.text_update:
            return self.attention.queries_keys_values(text)
        pair = einops.rearrange(
            layers.apply_flat(self.kv, text),
            "... (h two d) -> two ... h d",
            two=2,
            h=self.num_heads,
        )
        return None, *pair

    def for_frames(self, keys: jax.Array, values: jax.Array, scenes: Scenes) -> CaptionKeys:
        """Gathers the captions that each frame sees from those of all scenes, [B, S, Lt, ...]."""
        parts = (keys, values, scenes.caption_mask)
        if self.conditions.scope == "all":
            frames = scenes.scene_id.shape[1]
            seen = (einops.repeat(a, "b s l ... -> b t (s l) ...", t=frames) for a in parts)
        else:
            seen = (jax.vmap(lambda a, index: a[index])(a, scenes.scene_id) for a in parts)
        return CaptionKeys(*seen)

    def update(
        self,
        text: jax.Array,
        text_projections: tuple[jax.Array, jax.Array, jax.Array],
        frame_keys: tuple[jax.Array, jax.Array],
        scenes: Scenes,
    ) -> jax.Array:
        """Lets every caption attend to itself and to the frames of its scene.

        Args:
            text: [B, S, Lt, D].
            text_projections: Its queries, keys and values, [B, S, Lt, h, d].
            frame_keys: Keys and values of the tokens of frames, [B, T, N, h, d].
            scenes: The conditions.

        Returns:
            [B, S, Lt, D].
        """
        query, *own = text_projections
        num_scenes, length = text.shape[1:3]
        frames = (
            einops.repeat(a, "b t n h d -> (b s) (t n) h d", s=num_scenes) for a in frame_keys
        )
        key, value = (
            jnp.concatenate([einops.rearrange(a, "b s l h d -> (b s) l h d"), of_frames], axis=1)
            for a, of_frames in zip(own, frames, strict=True)
        )
        belongs = scenes.scene_id[:, None, :] == jnp.arange(num_scenes)[None, :, None]  # [B, S, T]
        in_scene = einops.repeat(
            belongs, "b s t -> (b s) l (t n)", l=length, n=frame_keys[0].shape[2]
        )
        valid = einops.repeat(scenes.caption_mask, "b s m -> (b s) l m", l=length)
        # A position without a token sees itself, so that no query is without a key.
        valid = valid | jnp.eye(length, dtype=bool)
        attended = attend(
            einops.rearrange(query, "b s l h d -> (b s) l h d"),
            key,
            value,
            mask=jnp.concatenate([valid, in_scene], axis=2),
            implementation=self.kernel,
        )
        attended = einops.rearrange(attended, "(b s) l h d -> b s l h d", s=num_scenes)
        text = text + self.gates[0] * self.attention.output(attended).astype(jnp.float32)
        return text + self.gates[1] * self.mlp(layers.layer_norm(text, self.dtype))
