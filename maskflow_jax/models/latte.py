"""Latte: a video transformer over tokens with a separate time for every frame.

Tokens are embedded, merged into p x p patches and processed by pairs of blocks: a spatial block
attends among the patches of a frame, a temporal block among the frames at a patch position. Every
block is modulated (adaLN-Zero) by the embedding of its frame's time. The head predicts the K
codebook entries, never the mask token, and is a method of its own, so that nobody has to hold the
logits of a whole video.

Frames that do not change while others are sampled can be run once: `context_cache` keeps their keys
and values in the temporal blocks, and `features` of the other frames attends to them. The cached
frames have then not seen the others, which is exact for a network whose clean frames attend to
clean frames only (`isolated_context`) if no other frame is clean, and an approximation otherwise.

Sources: Ma et al. 2024 (Latte); Peebles & Xie 2023 (DiT); MaskFlow, section 3 (per-frame times).
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskflow_jax.models import layers
from maskflow_jax.models.blocks import BlockPair, ContextCache
from maskflow_jax.models.conditioning import SceneEmbedding
from maskflow_jax.models.latte_config import (
    REMAT_POLICIES,
    VARIANTS,
    LatteConfig,
    latte_config,
)
from maskflow_jax.scenes.conditions import Scenes

__all__ = ["VARIANTS", "Latte", "LatteConfig", "latte_config"]


class Latte(nnx.Module):
    """The network: `features`, then `logits`."""

    def __init__(self, config: LatteConfig, rngs: nnx.Rngs):
        width, dtype, patch = config.width, jnp.dtype(config.dtype), config.patch_size
        self.config = config
        # One row more than the codebook: the mask token.
        self.token_embedding = nnx.Embed(
            config.codebook_size + 1,
            width // 2,
            dtype=dtype,
            embedding_init=jax.nn.initializers.normal(1.0),
            rngs=rngs,
        )
        self.patch_projection = layers.linear(patch**2 * (width // 2), width, rngs, dtype=dtype)
        self.time_embedding = layers.TimeEmbedding(width, rngs)
        if config.conditions is not None:
            self.scenes = SceneEmbedding(config.conditions, width, rngs, dtype=dtype)
        keys = jax.random.split(rngs.params(), config.depth // 2)
        # All pairs share one set of arrays with a leading axis, which `features` scans over.
        self.blocks = jax.vmap(
            lambda key: BlockPair(
                nnx.Rngs(key),
                config.conditions,
                width=width,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                dtype=dtype,
                kernel=config.attention,
            )
        )(keys)
        self.final_modulation = layers.linear(
            width, 2 * width, rngs, dtype=dtype, kernel_init=layers.zeros
        )
        self.head = layers.linear(
            width, patch**2 * config.codebook_size, rngs, dtype=dtype, kernel_init=layers.zeros
        )

    @property
    def mask_id(self) -> int:
        """The mask token, the size of the codebook."""
        return self.config.codebook_size

    def features(
        self,
        tokens: jax.Array,
        times: jax.Array,
        *,
        positions: np.ndarray | None = None,
        context: ContextCache | None = None,
        num_wanted: int | None = None,
        scenes: Scenes | None = None,
    ) -> jax.Array:
        """Runs everything but the vocabulary head.

        Args:
            tokens: int [B, T, H, W], K where masked.
            times: float [B, T], 0 fully masked, 1 clean.
            positions: numbers of the frames in their clip [T], a constant; by default they follow
                the context's, or else start at 0.
            context: frames before these that were run already.
            num_wanted: frames at the end whose features are wanted, None for all; what only the
                others need is left out.
            scenes: conditions of the frames; None says nothing of them.

        Returns:
            [B, T, N, D] in the compute type, N the number of patches of a frame, or its last
            `num_wanted` frames.

        Raises:
            ValueError: if the grid is not square or not a multiple of the patch size, or the
                conditions are not what the network takes.
        """
        if positions is None:
            first = 0 if context is None else context.clean.shape[1]
            positions = np.arange(first, first + tokens.shape[1])
        carry, condition, mask, _ = self._begin(tokens, times, context, scenes)
        pair = self._pair(condition, mask, positions, scenes)
        layers_in = self._layers(context)
        if num_wanted is None:
            (x, _), _ = jax.lax.scan(self._rematerialised(pair), carry, layers_in)
        else:
            # By index, for a slice of all pairs but one would copy the parameters.
            def one_of(carry, index):
                return pair(carry, jax.tree.map(lambda a: a[index], layers_in))[0], None

            carry, _ = jax.lax.scan(one_of, carry, jnp.arange(self.config.depth // 2 - 1))
            (x, _), _ = pair(carry, jax.tree.map(lambda a: a[-1], layers_in), num_wanted)
            condition = condition[:, -num_wanted:]
        shift, scale = jnp.split(self.final_modulation(condition)[:, :, None], 2, axis=-1)
        return layers.modulate(layers.layer_norm(x, condition.dtype), shift, scale)

    def context_cache(
        self,
        tokens: jax.Array,
        times: jax.Array,
        *,
        positions: np.ndarray | None = None,
        scenes: Scenes | None = None,
    ) -> ContextCache:
        """Runs frames on their own, for `features` of the frames after them.

        Args:
            tokens: int [B, m, H, W].
            times: float [B, m].
            positions: numbers of the frames in their clip [m], by default from 0.
            scenes: conditions of these frames.

        Returns:
            What the other frames attend to.

        Raises:
            ValueError: if captions are updated, which makes them depend on the other frames.
        """
        if self.config.text_update:
            raise ValueError(
                "a network with text_update cannot cache its context: captions attend to all "
                "frames of their scene, new ones included; sample without context_cache"
            )
        positions = np.arange(tokens.shape[1]) if positions is None else positions
        carry, condition, mask, clean = self._begin(tokens, times, None, scenes)
        _, (keys, values) = jax.lax.scan(
            self._pair(condition, mask, positions, scenes), carry, self._layers(None)
        )
        return ContextCache(keys, values, clean)

    def _begin(self, tokens, times, context: ContextCache | None, scenes: Scenes | None):
        """Embedded tokens and captions, condition [B, T, D], mask [B, T, m + T] or None, clean."""
        clean, mask = times == 1.0, None
        if self.config.isolated_context:
            seen = clean if context is None else jnp.concatenate([context.clean, clean], axis=1)
            mask = ~clean[:, :, None] | seen[:, None, :]
        if not self.config.time_conditioning:
            times = jnp.zeros_like(times)
        x = self._embed(tokens)
        condition, text = self.time_embedding(times), None
        if scenes is not None:
            self._check(scenes)
        if self.config.conditions is not None and self.config.conditions.num_labels:
            condition = condition + self.scenes.of_labels(scenes, times.shape)
        elif scenes is not None:
            text = self.scenes.of_captions(scenes)
        return (x, text), jax.nn.silu(condition).astype(self.config.dtype), mask, clean

    def _check(self, scenes: Scenes) -> None:
        if self.config.conditions is None:
            raise ValueError(
                "captions or labels were given to an unconditional network; leave them out, or "
                "train a network with scenes.condition"
            )
        self.config.conditions.check(scenes)

    def _layers(self, context: ContextCache | None):
        """What differs from pair to pair, with the pairs as the first axis of every array."""
        cached = None if context is None else (context.keys, context.values)
        return self.blocks, jnp.arange(self.config.depth // 2), cached

    def _pair(self, condition, mask, positions: np.ndarray, scenes: Scenes | None):
        """The function (carry, one of `_layers`, num_wanted) -> (carry, temporal keys and values).

        What is carried from pair to pair are the frames and, where there are any, the captions.
        """
        frame_positions = layers.sincos_1d(positions, self.config.width)
        frame_positions = jnp.asarray(frame_positions, jnp.float32)[:, None]  # [T, 1, D]

        def pair(carry, layer, num_wanted=None):
            blocks, index, cached = layer
            x, text = blocks.apply_spatial(*carry, condition, scenes)
            # The frame's position enters once, just before the first temporal block.
            x = x + jnp.where(index == 0, frame_positions, 0)
            x, keys_values = blocks.temporal(
                x, condition, axis="frames", mask=mask, context=cached, num_wanted=num_wanted
            )
            return (x, text), keys_values

        return pair

    def _rematerialised(self, pair):
        """The body of a scan over the pairs, as the backward pass should have it."""

        def body(carry, layer):
            return pair(carry, layer)[0], None

        if self.config.remat == "none":
            return body
        return jax.checkpoint(body, policy=REMAT_POLICIES[self.config.remat])

    def logits(self, features: jax.Array) -> jax.Array:
        """Predicts the clean tokens of some frames.

        Args:
            features: [B, T', N, D] of any T' frames.

        Returns:
            Logits over the codebook, accumulated and returned in float32, [B, T', H, W, K].
        """
        batch, frames, patches, width = features.shape
        side = round(patches**0.5)
        # Rounding logits to bfloat16 would change probabilities by several percent.
        logits = jnp.dot(
            features.reshape(-1, width),
            self.head.kernel[...].astype(features.dtype),
            preferred_element_type=jnp.float32,
        )
        return einops.rearrange(
            logits + self.head.bias[...],
            "(b t h w) (p q k) -> b t (h p) (w q) k",
            b=batch,
            t=frames,
            h=side,
            p=self.config.patch_size,
            q=self.config.patch_size,
        )

    def to_patches(self, tokens: jax.Array) -> jax.Array:
        """Orders [B, T, H, W] as the head's outputs: [B, T, N, p^2], `head` has K for each."""
        patch = self.config.patch_size
        return einops.rearrange(tokens, "b t (h p) (w q) -> b t (h w) (p q)", p=patch, q=patch)

    def _embed(self, tokens: jax.Array) -> jax.Array:
        height, width = tokens.shape[2:]
        patch = self.config.patch_size
        if height != width or height % patch:
            raise ValueError(
                f"a grid of {height}x{width} tokens cannot be cut into {patch}x{patch} patches; "
                "grids are square and a multiple of patch_size"
            )
        patches = einops.rearrange(
            self.token_embedding(tokens),
            "b t (h p) (w q) c -> b t (h w) (p q c)",
            p=patch,
            q=patch,
        )
        x = self.patch_projection(patches).astype(jnp.float32)
        positions = layers.sincos_2d(height // patch, self.config.width)
        return x + jnp.asarray(positions, jnp.float32)  # [B, T, N, D]
