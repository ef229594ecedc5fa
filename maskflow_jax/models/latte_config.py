"""Shape and arithmetic of a Latte, and its named sizes."""

import dataclasses

import jax

from maskflow_jax.models.attention import IMPLEMENTATIONS
from maskflow_jax.models.conditioning import Conditions

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
        conditions: what the network is conditioned on; None for an unconditional network.
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
    conditions: Conditions | None = None

    def __post_init__(self):
        """Raises ValueError for shapes that cannot be built."""
        if self.depth % 2:
            raise ValueError(f"depth {self.depth} is odd; blocks come in (spatial, temporal) pairs")
        if self.width % self.num_heads or self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 and of num_heads {self.num_heads}"
            )
        if self.isolated_context and self.text_update:
            raise ValueError(
                "with text_update clean frames see captions that have seen frames that are not "
                "clean; use isolated_context or text_update"
            )
        for name, choices in (
            ("dtype", ("float32", "bfloat16")),
            ("remat", tuple(REMAT_POLICIES)),
            ("attention", IMPLEMENTATIONS),
            ("patch_size", (1, 2, 4, 8)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")

    @property
    def text_update(self) -> bool:
        """Whether the tokens of captions change from block to block."""
        return self.conditions is not None and self.conditions.text_update


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


VARIANTS = {
    "S": {"depth": 12, "width": 384, "num_heads": 6},
    "B": {"depth": 12, "width": 768, "num_heads": 12},
    "L": {"depth": 24, "width": 1024, "num_heads": 16},
    "XL": {"depth": 28, "width": 1152, "num_heads": 16},
}
