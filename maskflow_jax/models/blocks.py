"""The transformer blocks of Latte: a spatial one, a temporal one, and both as a pair.

The modulation (adaLN-Zero) depends on the frame only, so it is computed on [B, T, D] and broadcast
over patches.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from maskflow_jax.models import layers
from maskflow_jax.models.attention import attend
from maskflow_jax.models.conditioning import CaptionKeys, Conditions, TextBranch
from maskflow_jax.scenes.conditions import Scenes


class ContextCache(NamedTuple):
    """Frames that were run before, as the temporal blocks see them.

    Attributes:
        keys: [depth / 2, B, m, N, h, d].
        values: likewise.
        clean: bool [B, m], the frames whose time is exactly 1.
    """

    keys: jax.Array
    values: jax.Array
    clean: jax.Array


class Block(nnx.Module):
    """Attention and MLP as residual branches that each frame's time shifts, scales and gates."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        width: int,
        num_heads: int,
        mlp_ratio: int,
        dtype: jnp.dtype,
        kernel: str,
    ):
        self.kernel = kernel
        self.modulation = layers.linear(
            width, 6 * width, rngs, dtype=dtype, kernel_init=layers.zeros
        )
        self.attention = layers.Attention(width, num_heads, rngs, dtype=dtype)
        self.mlp = layers.MLP(width, mlp_ratio * width, rngs, dtype=dtype)

    def __call__(
        self,
        x: jax.Array,
        condition: jax.Array,
        *,
        axis: str,
        mask: jax.Array | None = None,
        context: tuple[jax.Array, jax.Array] | None = None,
        num_wanted: int | None = None,
        captions: CaptionKeys | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Applies the block.

        The residual stream is float32 whatever the compute type: rounding it to bfloat16 after
        every branch doubles the error of the features at depth 28.

        Args:
            x: the residual stream, float32 [B, T, N, D].
            condition: activated time embedding [B, T, D], in the compute type.
            axis: what attention mixes: "patches" of a frame or "frames" at a patch position.
            mask: for "frames": bool [B, T, m + T], which frames a frame attends to.
            context: for "frames": keys and values [B, m, N, h, d] of m frames before these.
            num_wanted: frames at the end whose results are wanted; None for all.
            captions: for "patches": what each frame sees of captions.

        Returns:
            [B, T, N, D], or its last `num_wanted` frames, and the keys and values of all T frames,
            [B, T, N, h, d] each.
        """
        modulation = self.modulation(condition)[:, :, None]  # [B, T, 1, 6D]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)
        query, key, value = self.attention.queries_keys_values(
            layers.modulate(layers.layer_norm(x, condition.dtype), shift1, scale1)
        )
        own = (key, value)
        if context is not None:
            key, value = (jnp.concatenate(pair, 1) for pair in zip(context, own, strict=True))
        if captions is not None:
            # Frames see captions and themselves: M + N keys.
            own_tokens = jnp.ones(key.shape[:3], bool)
            mask = jnp.concatenate([captions.mask, own_tokens], axis=2)
            key = jnp.concatenate([captions.keys, key], axis=2)
            value = jnp.concatenate([captions.values, value], axis=2)
        if num_wanted is not None:
            wanted = (x, query, gate1, shift2, scale2, gate2, mask)
            x, query, gate1, shift2, scale2, gate2, mask = jax.tree.map(
                lambda a: a[:, -num_wanted:], wanted
            )
        x = _add(x, gate1, self.attention.output(self._attend(query, key, value, axis, mask)))
        hidden = layers.modulate(layers.layer_norm(x, condition.dtype), shift2, scale2)
        return _add(x, gate2, self.mlp(hidden)), own

    def _attend(self, query, key, value, axis: str, mask: jax.Array | None) -> jax.Array:
        batch, frames, patches = query.shape[:3]
        if axis == "patches":
            split, merged, sizes = "b t n h d", "(b t) n h d", {"b": batch, "t": frames}
        else:
            split, merged, sizes = "b t n h d", "(b n) t h d", {"b": batch, "n": patches}
        query, key, value = (
            einops.rearrange(a, f"{split} -> {merged}") for a in (query, key, value)
        )
        if mask is not None and axis == "patches":
            mask = einops.repeat(mask, "b t m -> (b t) n m", n=patches)
        elif mask is not None:
            mask = einops.repeat(mask, "b t m -> (b n) t m", n=patches)
        attended = attend(query, key, value, mask=mask, implementation=self.kernel)
        return einops.rearrange(attended, f"{merged} -> {split}", **sizes)


def _add(x: jax.Array, gate: jax.Array, branch: jax.Array) -> jax.Array:
    """Adds a gated branch to the float32 residual stream, without rounding the product."""
    return x + gate.astype(jnp.float32) * branch.astype(jnp.float32)


class BlockPair(nnx.Module):
    """A spatial and a temporal block, of the same settings, and what captions need beside them."""

    def __init__(self, rngs: nnx.Rngs, conditions: Conditions | None = None, **settings):
        self.spatial = Block(rngs, **settings)
        self.temporal = Block(rngs, **settings)
        if conditions is not None and conditions.by_captions:
            self.text = TextBranch(conditions, rngs, **settings)

    def apply_spatial(
        self, x: jax.Array, text: jax.Array | None, condition: jax.Array, scenes: Scenes | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Applies the spatial block to frames and, where they are updated, to captions.

        Args:
            x: [B, T, N, D].
            text: tokens of captions [B, S, Lt, D]; None without captions.
            condition: activated embedding of times and labels [B, T, D].
            scenes: the conditions.

        Returns:
            Frames and captions, of the same shapes.
        """
        if text is None:
            return self.spatial(x, condition, axis="patches")[0], None
        projections = self.text.projections(text)
        captions = self.text.for_frames(*projections[1:], scenes)
        x, frame_keys = self.spatial(x, condition, axis="patches", captions=captions)
        if self.text.conditions.text_update:
            text = self.text.update(text, projections, frame_keys, scenes)
        return x, text
