"""Vector quantisation of patches with a convolutional restorer: tokens that are stable in time.

A frame is cut into patches, and the token of a patch is the nearest of K mean patches, which
k-means finds (`patch_vq_training`). The encoder is local and has no other parameters: a patch that
does not change keeps its token, whatever happens around it, and motion moves tokens instead of
changing them all. That is what makes the next frame predictable. The decoder looks at the whole
neighbourhood on the grid of tokens: it starts from the mean patches and adds what residual 3x3
convolutions infer about the edges that run through them.

Images are NHWC with pixels in [-1, 1], as in `vqgan`; one set of weights takes frames of any size.

Source: van den Oord et al. 2017 (VQ-VAE), with the encoder reduced to the patch itself.
"""

import dataclasses
import functools

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from maskflow_jax.tokenizers.vqgan import nearest_code


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchVQConfig:
    """Shape of the tokenizer.

    Attributes:
        frame_size: Side of the square frames in pixels.
        patch_size: Side of a patch in pixels; each becomes one token.
        codebook_size: Number of mean patches K.
        width: Channels of the decoder.
        num_blocks: Residual blocks of the decoder; each widens its view by one patch on every side.
        head_width: Channels of the decoder's last hidden layer.
    """

    frame_size: int = 64
    patch_size: int = 8
    codebook_size: int = 512
    width: int = 192
    num_blocks: int = 4
    head_width: int = 512

    def __post_init__(self):
        """Raises ValueError for frames that patches do not fill, or sizes below 1."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)}: set it to 1 or more"
                )
        if self.frame_size % self.patch_size:
            raise ValueError(
                f"frame_size {self.frame_size} is not a multiple of patch_size {self.patch_size}"
            )

    @property
    def grid_size(self) -> int:
        """Tokens along one side of a frame."""
        return self.frame_size // self.patch_size

    @property
    def embed_dim(self) -> int:
        """Numbers in a codebook entry: the pixels of a patch in three colours."""
        return 3 * self.patch_size**2


class ResidualBlock(nnx.Module):
    """A normalisation per position, a 3x3 and a 1x1 convolution beside a shortcut."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.conv = nnx.Conv(width, width, (3, 3), padding="SAME", rngs=rngs)
        self.out = nnx.Linear(
            width, width, kernel_init=jax.nn.initializers.normal(0.1 / width**0.5), rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, h, w, C] to the same shape."""
        return x + self.out(jax.nn.gelu(self.conv(self.norm(x))))


class PatchVQ(nnx.Module):
    """The tokenizer's network: `encode`, `nearest_code`, `decode`."""

    def __init__(self, config: PatchVQConfig, rngs: nnx.Rngs):
        self.patch_size = config.patch_size
        self.codebook = nnx.Param(jnp.zeros((config.codebook_size, config.embed_dim)))
        self.embed = nnx.Linear(config.embed_dim, config.width, rngs=rngs)
        self.mix = nnx.Linear(config.width, config.width, rngs=rngs)
        self.blocks = nnx.List(ResidualBlock(config.width, rngs) for _ in range(config.num_blocks))
        self.norm = nnx.LayerNorm(config.width, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(config.width, config.head_width, rngs=rngs)
        zeros = jax.nn.initializers.zeros  # decoding starts from the mean patches
        self.out = nnx.Linear(config.head_width, config.embed_dim, kernel_init=zeros, rngs=rngs)

    def encode(self, images: jax.Array) -> jax.Array:
        """Cuts images float [B, H, W, 3] into patches float [B, h, w, 3 p p]."""
        return to_patches(images, self.patch_size)

    def nearest_code(self, patches: jax.Array) -> jax.Array:
        """Finds the mean patch nearest to each of patches [..., 3 p p]: tokens int32 [...]."""
        return nearest_code(patches, self.codebook[...])

    def decode(self, codes: jax.Array) -> jax.Array:
        """Restores images.

        Args:
            codes: Mean patches float [B, h, w, 3 p p].

        Returns:
            Images float [B, H, W, 3], nominally in [-1, 1] but not clipped.
        """
        x = self.mix(jax.nn.gelu(self.embed(codes)))
        for block in self.blocks:
            x = block(x)
        restored = codes + self.out(jax.nn.gelu(self.head(self.norm(x))))
        return to_images(restored, self.patch_size)


def to_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images [B, H, W, C] into patches [B, h, w, p p C]."""
    return einops.rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=patch_size, q=patch_size)


def to_images(patches: jax.Array, patch_size: int) -> jax.Array:
    """Joins patches [B, h, w, p p C] to images [B, H, W, C]."""
    return einops.rearrange(patches, "b h w (p q c) -> b (h p) (w q) c", p=patch_size, q=patch_size)


@functools.cache
def abstract_patch_vq(config: PatchVQConfig) -> tuple[nnx.GraphDef, dict]:
    """Describes the network of a config without allocating it, once per config.

    Returns:
        The graph that `nnx.merge` joins with parameters, and the shapes of these as a nested dict.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: PatchVQ(config, nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def bytes_per_frame(config: PatchVQConfig, itemsize: int = 4) -> int:
    """Estimates from above what encoding or decoding takes for each frame, in bytes."""
    positions = config.grid_size**2
    maps = 6 * positions * max(config.width, config.head_width, config.embed_dim) * itemsize
    return maps + 2 * positions * config.codebook_size * 4
