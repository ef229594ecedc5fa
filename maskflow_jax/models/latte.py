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

import dataclasses

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskflow_jax.models import layers
from maskflow_jax.models.attention import IMPLEMENTATIONS
from maskflow_jax.models.blocks import BlockPair, ContextCache

REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatteConfig:
    """Shape and arithmetic of a Latte.

    Attributes:
        codebook_size: number of token values K; the mask token is K.
        depth: number of blocks, half of them spatial and half temporal.
        width: channels D.
        num_heads: attention heads.
        patch_size: side p in tokens of the square merged into one patch.
        mlp_ratio: hidden width of the MLPs over D.
        time_conditioning: whether blocks see the frames' times; otherwise they see time 0.
        dtype: type of the matrix products and of what lies between them, "float32" or "bfloat16";
            parameters, the residual stream, LayerNorm's statistics, the time embedding and the
            logits are float32.
        remat: what the backward pass recomputes: "none", "dots" (all but matrix products), "full".
        attention: kernel, "xla", "cudnn" or "auto" (`attention.probe`).
        isolated_context: whether, in the temporal blocks, a clean frame (time exactly 1) attends to
            clean frames only. It makes `context_cache` exact, and wants training times that are
            sometimes exactly 1 ("frame_clean" of `flow.frame_times`).
    """

    codebook_size: int
    depth: int
    width: int
    num_heads: int
    patch_size: int = 2
    mlp_ratio: int = 4
    time_conditioning: bool = True
    dtype: str = "float32"
    remat: str = "full"
    attention: str = "auto"
    isolated_context: bool = False

    def __post_init__(self):
        """Raises ValueError for shapes that cannot be built."""
        if self.depth % 2:
            raise ValueError(f"depth {self.depth} is odd; blocks come in (spatial, temporal) pairs")
        if self.width % self.num_heads or self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 and of num_heads {self.num_heads}"
            )
        for name, choices in (
            ("dtype", ("float32", "bfloat16")),
            ("remat", tuple(REMAT_POLICIES)),
            ("attention", IMPLEMENTATIONS),
            ("patch_size", (1, 2, 4, 8)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")


def latte_config(variant: str, *, codebook_size: int, **overrides) -> LatteConfig:
    """Looks up a named size.

    Args:
        variant: size and patch size, such as "XL/2": one of `VARIANTS`, a slash, 1, 2, 4 or 8.
        codebook_size: number of token values K.
        **overrides: any other field of `LatteConfig`.

    Returns:
        The config.

    Raises:
        ValueError: if the name is unknown.
    """
    size, _, patch = variant.partition("/")
    if size not in VARIANTS or not patch.isdigit():
        raise ValueError(
            f"unknown model variant {variant!r}; write SIZE/PATCH with SIZE one of "
            f"{', '.join(VARIANTS)} and PATCH one of 1, 2, 4, 8, such as 'B/2'"
        )
    fields = {**VARIANTS[size], "patch_size": int(patch), **overrides}
    return LatteConfig(codebook_size=codebook_size, **fields)


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
        keys = jax.random.split(rngs.params(), config.depth // 2)
        # All pairs share one set of arrays with a leading axis, which `features` scans over.
        self.blocks = jax.vmap(
            lambda key: BlockPair(
                nnx.Rngs(key),
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

        Returns:
            [B, T, N, D] in the compute type, N the number of patches of a frame, or its last
            `num_wanted` frames.

        Raises:
            ValueError: if the grid is not square or not a multiple of the patch size.
        """
        if positions is None:
            first = 0 if context is None else context.clean.shape[1]
            positions = np.arange(first, first + tokens.shape[1])
        x, condition, mask, _ = self._begin(tokens, times, context)
        pair = self._pair(condition, mask, positions)
        layers_in = self._layers(context)
        if num_wanted is None:
            x, _ = jax.lax.scan(self._rematerialised(pair), x, layers_in)
        else:
            # By index, for a slice of all pairs but one would copy the parameters.
            def one_of(x, index):
                return pair(x, jax.tree.map(lambda a: a[index], layers_in))[0], None

            x, _ = jax.lax.scan(one_of, x, jnp.arange(self.config.depth // 2 - 1))
            x, _ = pair(x, jax.tree.map(lambda a: a[-1], layers_in), num_wanted)
            condition = condition[:, -num_wanted:]
        shift, scale = jnp.split(self.final_modulation(condition)[:, :, None], 2, axis=-1)
        return layers.modulate(layers.layer_norm(x, condition.dtype), shift, scale)

    def context_cache(
        self, tokens: jax.Array, times: jax.Array, *, positions: np.ndarray | None = None
    ) -> ContextCache:
        """Runs frames on their own, for `features` of the frames after them.

        Args:
            tokens: int [B, m, H, W].
            times: float [B, m].
            positions: numbers of the frames in their clip [m], by default from 0.

        Returns:
            What the other frames attend to.
        """
        positions = np.arange(tokens.shape[1]) if positions is None else positions
        x, condition, mask, clean = self._begin(tokens, times, None)
        _, (keys, values) = jax.lax.scan(
            self._pair(condition, mask, positions), x, self._layers(None)
        )
        return ContextCache(keys, values, clean)

    def _begin(self, tokens, times, context: ContextCache | None):
        """Embedded tokens, condition [B, T, D], mask [B, T, m + T] or None, clean frames [B, T]."""
        clean, mask = times == 1.0, None
        if self.config.isolated_context:
            seen = clean if context is None else jnp.concatenate([context.clean, clean], axis=1)
            mask = ~clean[:, :, None] | seen[:, None, :]
        if not self.config.time_conditioning:
            times = jnp.zeros_like(times)
        x = self._embed(tokens)
        condition = jax.nn.silu(self.time_embedding(times)).astype(self.config.dtype)
        return x, condition, mask, clean

    def _layers(self, context: ContextCache | None):
        """What differs from pair to pair, with the pairs as the first axis of every array."""
        cached = None if context is None else (context.keys, context.values)
        return self.blocks, jnp.arange(self.config.depth // 2), cached

    def _pair(self, condition, mask, positions: np.ndarray):
        """The function (x, one of `_layers`, num_wanted) -> (x, the temporal keys and values)."""
        frame_positions = layers.sincos_1d(positions, self.config.width)
        frame_positions = jnp.asarray(frame_positions, jnp.float32)[:, None]  # [T, 1, D]

        def pair(x, layer, num_wanted=None):
            blocks, index, cached = layer
            x, _ = blocks.spatial(x, condition, axis="patches")
            # The frame's position enters once, just before the first temporal block.
            x = x + jnp.where(index == 0, frame_positions, 0)
            return blocks.temporal(
                x, condition, axis="frames", mask=mask, context=cached, num_wanted=num_wanted
            )

        return pair

    def _rematerialised(self, pair):
        """The body of a scan over the pairs, as the backward pass should have it."""

        def body(x, layer):
            return pair(x, layer)[0], None

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


VARIANTS = {
    "S": {"depth": 12, "width": 384, "num_heads": 6},
    "B": {"depth": 12, "width": 768, "num_heads": 12},
    "L": {"depth": 24, "width": 1024, "num_heads": 16},
    "XL": {"depth": 28, "width": 1152, "num_heads": 16},
}
