"""The vector-quantised autoencoder that turns frames into tokens and back.

An image is encoded by a convolutional network to a grid of vectors, each vector is replaced by its
nearest neighbour in a codebook, and a mirrored network decodes the grid of neighbours to pixels.
The index of the neighbour is the token. The block structure is that of latent diffusion's `VQModel`
(f8 in MaskFlow) and of taming-transformers, so that their checkpoints and the small tokenizers
trained here are settings of one class. Images and latents are NHWC, pixels in [-1, 1].

Sources: van den Oord et al. 2017 (VQ-VAE); Esser et al. 2021 (VQGAN); Rombach et al. 2022, app. E.
"""

import dataclasses
import functools
import itertools
import math

import einops
import jax
import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Shape of the autoencoder; the defaults are SD-VQ-f8's.

    Attributes:
        frame_size: Side of the square input in pixels.
        base_width: Channels at full resolution.
        width_multipliers: Channels of each resolution level over `base_width`; every level but the
            last halves the resolution.
        num_res_blocks: Residual blocks per level (the decoder has one more).
        attention_resolutions: Sides in pixels at which a level attends after each residual block.
        z_channels: Channels of the encoder's output and the decoder's input.
        embed_dim: Width of a codebook entry.
        codebook_size: Number of codebook entries K.
        norm_groups: Groups of every group normalisation; 32 in all published checkpoints.
        middle_attention: Attends at the coarsest resolution, between two residual blocks.
    """

    frame_size: int = 256
    base_width: int = 128
    width_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32,)
    z_channels: int = 4
    embed_dim: int = 4
    codebook_size: int = 16384
    norm_groups: int = 32
    middle_attention: bool = True

    def __post_init__(self):
        object.__setattr__(self, "width_multipliers", tuple(self.width_multipliers))
        object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
        if self.frame_size % self.downsampling:
            raise ValueError(
                f"frame_size {self.frame_size} is not a multiple of the downsampling factor "
                f"{self.downsampling} (2 per level after the first of width_multipliers)"
            )
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"a level of {width} channels cannot be normalised in {self.norm_groups} "
                    "groups; choose norm_groups to divide base_width times every multiplier"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each resolution level, the finest first."""
        return tuple(self.base_width * multiplier for multiplier in self.width_multipliers)

    @property
    def downsampling(self) -> int:
        """Pixels per token along one side."""
        return 2 ** (len(self.width_multipliers) - 1)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of a frame."""
        return self.frame_size // self.downsampling


def _conv(width_in: int, width_out: int, kernel: int, rngs: nnx.Rngs, **kwargs) -> nnx.Conv:
    # Zero biases and a fan-in uniform of variance 1/(3 fan-in), the scale these networks are
    # published with.
    init = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nnx.Conv(
        width_in, width_out, (kernel, kernel), kernel_init=init, rngs=rngs, padding="SAME", **kwargs
    )


def _norm(width: int, config: VQGANConfig, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(width, config.norm_groups, epsilon=1e-6, rngs=rngs)


class ResnetBlock(nnx.Module):
    """Two normalised, activated 3x3 convolutions beside a shortcut."""

    def __init__(self, width_in: int, width_out: int, config: VQGANConfig, rngs: nnx.Rngs):
        self.norm1 = _norm(width_in, config, rngs)
        self.conv1 = _conv(width_in, width_out, 3, rngs)
        self.norm2 = _norm(width_out, config, rngs)
        self.conv2 = _conv(width_out, width_out, 3, rngs)
        self.nin_shortcut = _conv(width_in, width_out, 1, rngs) if width_in != width_out else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C']."""
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nnx.Module):
    """Single-head self-attention over the positions of a feature map."""

    def __init__(self, width: int, config: VQGANConfig, rngs: nnx.Rngs):
        self.norm = _norm(width, config, rngs)
        self.q, self.k, self.v, self.proj_out = (_conv(width, width, 1, rngs) for _ in range(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to the same shape."""
        h = self.norm(x)
        query, key, value = (
            einops.rearrange(project(h), "b h w c -> b (h w) 1 c")
            for project in (self.q, self.k, self.v)
        )
        attended = jax.nn.dot_product_attention(query, key, value)
        return x + self.proj_out(attended.reshape(x.shape))


class _Middle(nnx.Module):
    """Residual, attention (if the config asks), residual at the coarsest resolution."""

    def __init__(self, width: int, config: VQGANConfig, rngs: nnx.Rngs):
        self.block_1 = ResnetBlock(width, width, config, rngs)
        self.attn_1 = AttentionBlock(width, config, rngs) if config.middle_attention else None
        self.block_2 = ResnetBlock(width, width, config, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.block_1(x)
        return self.block_2(x if self.attn_1 is None else self.attn_1(x))


class _Resample(nnx.Module):
    """Holder of the convolution that halves or doubles the resolution."""

    def __init__(self, width: int, rngs: nnx.Rngs, *, down: bool):
        # Downsampling pads below and to the right only, as the published networks do.
        padding = ((0, 1), (0, 1)) if down else "SAME"
        init = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        strides = (2, 2) if down else (1, 1)
        self.conv = nnx.Conv(
            width, width, (3, 3), strides=strides, padding=padding, kernel_init=init, rngs=rngs
        )
        self.down = down

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.down:
            x = einops.repeat(x, "b h w c -> b (h 2) (w 2) c")
        return self.conv(x)


class _Level(nnx.Module):
    """The residual blocks of one resolution, with attention after each where the config asks."""

    def __init__(
        self, widths: list[int], resample: str | None, attend: bool, config: VQGANConfig, rngs
    ):
        self.block = nnx.List(
            ResnetBlock(a, b, config, rngs) for a, b in itertools.pairwise(widths)
        )
        self.attn = nnx.List(AttentionBlock(b, config, rngs) for b in widths[1:] if attend)
        if resample == "down":
            self.downsample = _Resample(widths[-1], rngs, down=True)
        elif resample == "up":
            self.upsample = _Resample(widths[-1], rngs, down=False)
        self.resample = resample

    def __call__(self, x: jax.Array) -> jax.Array:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        if self.resample is None:
            return x
        return self.downsample(x) if self.resample == "down" else self.upsample(x)


class Encoder(nnx.Module):
    """Image to latent grid."""

    def __init__(self, config: VQGANConfig, rngs: nnx.Rngs):
        widths = config.widths
        self.conv_in = _conv(3, config.base_width, 3, rngs)
        self.down = nnx.List()
        width = config.base_width
        for level, width_out in enumerate(widths):
            side = config.frame_size // 2**level
            path = [width] + [width_out] * config.num_res_blocks
            resample = "down" if level < len(widths) - 1 else None
            attend = side in config.attention_resolutions
            self.down.append(_Level(path, resample, attend, config, rngs))
            width = width_out
        self.mid = _Middle(width, config, rngs)
        self.norm_out = _norm(width, config, rngs)
        self.conv_out = _conv(width, config.z_channels, 3, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, 3] to [B, h, w, z_channels]."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm_out(self.mid(x))))


class Decoder(nnx.Module):
    """Latent grid to image."""

    def __init__(self, config: VQGANConfig, rngs: nnx.Rngs):
        widths = config.widths
        width = widths[-1]
        self.conv_in = _conv(config.z_channels, width, 3, rngs)
        self.mid = _Middle(width, config, rngs)
        levels = []
        for level in reversed(range(len(widths))):
            side = config.frame_size // 2**level
            path = [width] + [widths[level]] * (config.num_res_blocks + 1)
            resample = "up" if level > 0 else None
            attend = side in config.attention_resolutions
            levels.append(_Level(path, resample, attend, config, rngs))
            width = widths[level]
        # Indexed like the encoder, finest level first, as the published checkpoints are.
        self.up = nnx.List(reversed(levels))
        self.norm_out = _norm(width, config, rngs)
        self.conv_out = _conv(width, 3, 3, rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        """Maps [B, h, w, z_channels] to images [B, H, W, 3]."""
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class VQGAN(nnx.Module):
    """The autoencoder: `encode`, `nearest_code`, `decode`.

    Module attributes carry the names of the published checkpoints' parameters, so that importing
    one is a change of layout, not of names.
    """

    def __init__(self, config: VQGANConfig, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs)
        self.quant_conv = _conv(config.z_channels, config.embed_dim, 1, rngs)
        bound = 1 / config.codebook_size
        shape = (config.codebook_size, config.embed_dim)
        self.codebook = nnx.Param(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )
        self.post_quant_conv = _conv(config.embed_dim, config.z_channels, 1, rngs)
        self.decoder = Decoder(config, rngs)

    def encode(self, images: jax.Array) -> jax.Array:
        """Encodes images without quantising them.

        Args:
            images: float [B, H, W, 3] in [-1, 1].

        Returns:
            Latents float [B, h, w, embed_dim].
        """
        return self.quant_conv(self.encoder(images))

    def nearest_code(self, latents: jax.Array) -> jax.Array:
        """Finds the codebook entry nearest to each latent in squared L2.

        Args:
            latents: float [..., embed_dim].

        Returns:
            Tokens int32 [...], the lowest index where two entries are equally near.
        """
        return nearest_code(latents, self.codebook[...])

    def decode(self, quantised: jax.Array) -> jax.Array:
        """Decodes codebook entries to images.

        Args:
            quantised: float [B, h, w, embed_dim].

        Returns:
            Images float [B, H, W, 3], nominally in [-1, 1] but not clipped.
        """
        return self.decoder(self.post_quant_conv(quantised))


def nearest_code(latents: jax.Array, codebook: jax.Array) -> jax.Array:
    """Finds the entry of `codebook` [K, C] nearest to each of `latents` [..., C] in squared L2.

    The latent's own norm does not change which entry is nearest, so one matrix product and one
    reduction over K suffice; nothing of shape [..., K, C] is built.

    Returns:
        Tokens int32 [...], the lowest index where two entries are equally near.
    """
    products = jnp.einsum("...c,kc->...k", latents, codebook, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(codebook**2, axis=-1) - 2 * products, axis=-1).astype(jnp.int32)


@functools.cache
def abstract_vqgan(config: VQGANConfig) -> tuple[nnx.GraphDef, dict]:
    """Describes the network of a config without allocating it, once per config.

    Returns:
        The graph that `nnx.merge` joins with parameters, and the shapes of these as a nested dict.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: VQGAN(config, nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def parameter_count(config: VQGANConfig) -> int:
    """Counts the parameters of a configuration without allocating them."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_vqgan(config)[1]))
