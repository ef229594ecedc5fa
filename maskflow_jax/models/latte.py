"""Latte: a video transformer over tokens with a separate time for every frame.

Tokens are embedded, merged into p x p patches and processed by pairs of blocks: a spatial block
attends among the patches of a frame, a temporal block among the frames at a patch position. Every
block is modulated (adaLN-Zero) by the embedding of its frame's time. The modulation depends on the
frame only, so it is computed on [B, T, D] and broadcast over patches. The head predicts the K
codebook entries, never the mask token, and is a method of its own, so that nobody has to hold the
logits of a whole video.

Sources: Ma et al. 2024 (Latte); Peebles & Xie 2023 (DiT); MaskFlow, section 3 (per-frame times).
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from maskflow_jax.models import layers

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
        dtype: type of the matrix products, "float32" or "bfloat16"; parameters are float32.
        remat: what the backward pass recomputes: "none", "dots" (all but matrix products), "full".
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


class Block(nnx.Module):
    """Attention and MLP as residual branches that each frame's time shifts, scales and gates."""

    def __init__(self, config: LatteConfig, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.modulation = layers.linear(
            width, 6 * width, rngs, dtype=dtype, kernel_init=layers.zeros
        )
        self.attention = layers.Attention(width, config.num_heads, rngs, dtype=dtype)
        self.mlp = layers.MLP(width, config.mlp_ratio * width, rngs, dtype=dtype)

    def __call__(self, x: jax.Array, condition: jax.Array, *, axis: str) -> jax.Array:
        """Applies the block.

        Args:
            x: [B, T, N, D].
            condition: activated time embedding [B, T, D].
            axis: what attention mixes: "patches" of a frame or "frames" at a patch position.

        Returns:
            [B, T, N, D].
        """
        modulation = self.modulation(condition)[:, :, None]  # [B, T, 1, 6D]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)
        attended = self._attend(layers.modulate(layers.layer_norm(x), shift1, scale1), axis)
        x = x + gate1 * attended
        return x + gate2 * self.mlp(layers.modulate(layers.layer_norm(x), shift2, scale2))

    def _attend(self, x: jax.Array, axis: str) -> jax.Array:
        batch, frames, patches, _ = x.shape
        if axis == "patches":
            mixed = self.attention(einops.rearrange(x, "b t n d -> (b t) n d"))
            return einops.rearrange(mixed, "(b t) n d -> b t n d", b=batch, t=frames)
        mixed = self.attention(einops.rearrange(x, "b t n d -> (b n) t d"))
        return einops.rearrange(mixed, "(b n) t d -> b t n d", b=batch, n=patches)


class BlockPair(nnx.Module):
    """A spatial and a temporal block."""

    def __init__(self, config: LatteConfig, rngs: nnx.Rngs):
        self.spatial = Block(config, rngs)
        self.temporal = Block(config, rngs)


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
        self.blocks = jax.vmap(lambda key: BlockPair(config, nnx.Rngs(key)))(keys)
        self.final_modulation = layers.linear(
            width, 2 * width, rngs, dtype=dtype, kernel_init=layers.zeros
        )
        self.head = layers.linear(
            width, patch**2 * config.codebook_size, rngs, dtype=dtype, kernel_init=layers.zeros
        )

    def features(self, tokens: jax.Array, times: jax.Array) -> jax.Array:
        """Runs everything but the vocabulary head.

        Args:
            tokens: int [B, T, H, W], K where masked.
            times: float [B, T], 0 fully masked, 1 clean.

        Returns:
            [B, T, N, D] in the compute type, N the number of patches of a frame.

        Raises:
            ValueError: if the grid is not square or not a multiple of the patch size.
        """
        if not self.config.time_conditioning:
            times = jnp.zeros_like(times)
        x = self._embed(tokens)
        frame_positions = layers.sincos_1d(range(tokens.shape[1]), self.config.width)
        frame_positions = jnp.asarray(frame_positions, x.dtype)[:, None]  # [T, 1, D]
        condition = jax.nn.silu(self.time_embedding(times)).astype(x.dtype)  # [B, T, D]

        def pair(x, block_and_index):
            blocks, index = block_and_index
            x = blocks.spatial(x, condition, axis="patches")
            # The frame's position enters once, just before the first temporal block.
            x = x + jnp.where(index == 0, frame_positions, 0)
            return blocks.temporal(x, condition, axis="frames"), None

        if self.config.remat != "none":
            pair = jax.checkpoint(pair, policy=REMAT_POLICIES[self.config.remat])
        x, _ = jax.lax.scan(pair, x, (self.blocks, jnp.arange(self.config.depth // 2)))
        shift, scale = jnp.split(self.final_modulation(condition)[:, :, None], 2, axis=-1)
        return layers.modulate(layers.layer_norm(x), shift, scale)

    def logits(self, features: jax.Array) -> jax.Array:
        """Predicts the clean tokens of some frames.

        Args:
            features: [B, T', N, D] of any T' frames.

        Returns:
            Logits over the codebook in the compute type, [B, T', H, W, K].
        """
        side = round(features.shape[2] ** 0.5)
        return einops.rearrange(
            self.head(features),
            "b t (h w) (p q k) -> b t (h p) (w q) k",
            h=side,
            p=self.config.patch_size,
            q=self.config.patch_size,
        )

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
        x = self.patch_projection(patches)
        positions = layers.sincos_2d(height // patch, self.config.width)
        return x + jnp.asarray(positions, x.dtype)  # [B, T, N, D]


VARIANTS = {
    "S": {"depth": 12, "width": 384, "num_heads": 6},
    "B": {"depth": 12, "width": 768, "num_heads": 12},
    "L": {"depth": 24, "width": 1024, "num_heads": 16},
    "XL": {"depth": 28, "width": 1152, "num_heads": 16},
}
