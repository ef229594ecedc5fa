"""Released torch checkpoints as parameters of `Latte`, and back: one table, read in both ways.

Block 2i of a checkpoint is pair i's spatial block, block 2i + 1 its temporal one; here all pairs
are stacked along a leading axis. The released models also predict the mask token, as their last
class, which nothing ever uses: its row of the head is dropped on the way in. On the way out it gets
zero weight and the bias `MASK_BIAS`, so that softmax gives it probability 0 and a model in torch
never draws it. Checkpoints also store their fixed tables of positions, which are computed here: on
the way in they are compared, on the way out written.

The names and shapes that a config asks for are those that `to_torch` would write.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import einops
import jax
import numpy as np
from flax import nnx

from maskflow_jax.models import layers
from maskflow_jax.models.latte import VARIANTS, Latte, LatteConfig

# torch name -> (path of the parameter, axes in torch, axes here)
OUTER = {
    "vocab_embedding.weight": ("token_embedding.embedding", "k c", "k c"),
    "x_embedder.proj.weight": ("patch_projection.kernel", "d c p q", "(p q c) d"),
    "x_embedder.proj.bias": ("patch_projection.bias", "d", "d"),
    "t_embedder.mlp.0.weight": ("time_embedding.fc1.kernel", "o i", "i o"),
    "t_embedder.mlp.0.bias": ("time_embedding.fc1.bias", "o", "o"),
    "t_embedder.mlp.2.weight": ("time_embedding.fc2.kernel", "o i", "i o"),
    "t_embedder.mlp.2.bias": ("time_embedding.fc2.bias", "o", "o"),
    "final_layer.adaLN_modulation.1.weight": ("final_modulation.kernel", "o i", "i o"),
    "final_layer.adaLN_modulation.1.bias": ("final_modulation.bias", "o", "o"),
    "final_layer.linear.weight": ("head.kernel", "o i", "i o"),
    "final_layer.linear.bias": ("head.bias", "o", "o"),
}
# The linears of a block, as parts of names, and their outputs there and here: the released code has
# all queries, then all keys, then all values; here each head has its three side by side.
BLOCK = {
    "attn.qkv": ("attention.qkv", "(three h d)", "(h three d)"),
    "attn.proj": ("attention.proj", "o", "o"),
    "mlp.fc1": ("mlp.fc1", "o", "o"),
    "mlp.fc2": ("mlp.fc2", "o", "o"),
    "adaLN_modulation.1": ("modulation", "o", "o"),
}
# The fixed tables of positions: of patches [1, N, D] and of frames [1, T, D].
TABLES = ("pos_embed", "temp_embed")
# Probability 0 in every float type, within float16's range, and finite: -inf times 0 is NaN.
MASK_BIAS = -1e4


class _Row(NamedTuple):
    """A torch parameter: its name, our path, its pair (None: no block), axes there, axes here."""

    name: str
    path: str
    pair: int | None
    torch_axes: str
    axes: str


def from_torch(state_dict: Mapping[str, np.ndarray], config: LatteConfig) -> dict:
    """Converts a torch state dict of a released model.

    Args:
        state_dict: torch parameter names to arrays.
        config: the model they belong to.

    Returns:
        The nested parameter dict of `Latte(config)`, float32.

    Raises:
        ValueError: with all missing, unexpected and mis-shaped names at once, and with what the
            checkpoint seems to be if that is not what the config says; for a network with
            conditions, which the released layout does not have.
    """
    _refuse_conditions(config)
    if problems := _problems(state_dict, config):
        heading = f"the checkpoint does not fit the model{_explain(state_dict, config)}:"
        raise ValueError("\n  ".join([heading, *problems]))
    flat: dict[str, Any] = {}
    for row in _rows(config.depth):
        array = np.asarray(state_dict[row.name], np.float32)
        array = einops.rearrange(array, f"{row.torch_axes} -> {row.axes}", **_sizes(row, config))
        if row.path.startswith("head."):
            array = _by_class(array, config.codebook_size + 1)[..., :-1]
            array = einops.rearrange(array, "... pq k -> ... (pq k)")
        if row.pair is None:
            flat[row.path] = array
        else:
            flat.setdefault(row.path, []).append(array)
    stacked = {path: np.stack(x) if isinstance(x, list) else x for path, x in flat.items()}
    return nnx.traversals.unflatten_mapping({tuple(p.split(".")): x for p, x in stacked.items()})


def to_torch(
    params: Mapping[str, Any],
    config: LatteConfig,
    *,
    grid_size: int | None = None,
    num_frames: int | None = None,
) -> dict[str, np.ndarray]:
    """Converts parameters to the state dict that the released code loads; undoes `from_torch`.

    Args:
        params: the nested parameter dict of `Latte(config)`.
        config: the model.
        grid_size: tokens along a side of a frame, for the stored table of patch positions. Without
            it the table is left out, and torch must load the rest with `strict=False`.
        num_frames: frames of the training window, for the table of frame positions, likewise.

    Returns:
        torch names to float32 arrays, some of them views of the parameters.

    Raises:
        ValueError: for a network with conditions, which the released layout does not have.
    """
    _refuse_conditions(config)
    arrays = {name: np.asarray(x) for name, x in _parameters_to_torch(params, config).items()}
    if grid_size is not None:
        positions = layers.sincos_2d(grid_size // config.patch_size, config.width)
        arrays["pos_embed"] = positions[None].astype(np.float32)
    if num_frames is not None:
        positions = layers.sincos_1d(np.arange(num_frames), config.width)
        arrays["temp_embed"] = positions[None].astype(np.float32)
    return arrays


def sizes_from_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Reads the sizes of a model off the shapes of its parameters.

    The number of heads leaves no trace in shapes; a variant's name decides it.

    Args:
        state_dict: torch parameter names to arrays.

    Returns:
        Those of `depth`, `width`, `patch_size`, `codebook_size`, `grid_size` (tokens along a side
        of a frame) and `num_frames` (of the training window) whose parameters are there.
    """
    shapes = {name: tuple(array.shape) for name, array in state_dict.items()}
    blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
    sizes = {"depth": max(blocks) + 1} if blocks else {}
    if len(patch := shapes.get("x_embedder.proj.weight", ())) == 4:
        sizes |= {"width": patch[0], "patch_size": patch[2]}
    if "vocab_embedding.weight" in shapes:
        sizes["codebook_size"] = shapes["vocab_embedding.weight"][0] - 1
    if len(table := shapes.get("pos_embed", ())) == 3 and "patch_size" in sizes:
        sizes["grid_size"] = round(table[1] ** 0.5) * sizes["patch_size"]
    if len(table := shapes.get("temp_embed", ())) == 3:
        sizes["num_frames"] = table[1]
    return sizes


def _refuse_conditions(config: LatteConfig) -> None:
    if config.conditions is not None:
        kind = "captions" if config.conditions.by_captions else "labels"
        raise ValueError(
            f"the network is conditioned on {kind} of scenes, for which the released layout has no "
            "parameters; set scenes.condition to 'none', or keep this project's own format"
        )


def _rows(depth: int) -> Iterator[_Row]:
    """The whole table for a depth, the pairs of a path in order."""
    for name, (path, torch_axes, axes) in OUTER.items():
        yield _Row(name, path, None, torch_axes, axes)
    for index in range(depth):
        pair, kind = index // 2, ("spatial", "temporal")[index % 2]
        for name, (part, theirs, ours) in BLOCK.items():
            name, path = f"blocks.{index}.{name}", f"blocks.{kind}.{part}"
            yield _Row(f"{name}.weight", f"{path}.kernel", pair, f"{theirs} i", f"i {ours}")
            yield _Row(f"{name}.bias", f"{path}.bias", pair, theirs, ours)


def _sizes(row: _Row, config: LatteConfig) -> dict[str, int]:
    """The lengths of a row's axes that are not read off its shape."""
    known = {"p": config.patch_size, "q": config.patch_size, "three": 3, "h": config.num_heads}
    names = re.findall(r"\w+", row.torch_axes)
    return {name: size for name, size in known.items() if name in names}


def _parameters_to_torch(params: Mapping[str, Any], config: LatteConfig) -> dict[str, Any]:
    """Names to arrays under the released names; NumPy, or JAX where `params` is traced."""
    flat = {".".join(p): x for p, x in nnx.traversals.flatten_mapping(params).items()}
    arrays = {}
    for row in _rows(config.depth):
        array = flat[row.path] if row.pair is None else flat[row.path][row.pair]
        if row.path.startswith("head."):
            xp, classes = array.__array_namespace__(), _by_class(array, config.codebook_size)
            fill = 0.0 if row.path.endswith("kernel") else MASK_BIAS
            mask_class = xp.full((*classes.shape[:-1], 1), fill, dtype=array.dtype)
            classes = xp.concat([classes, mask_class], axis=-1)
            array = einops.rearrange(classes, "... pq k -> ... (pq k)")
        pattern = f"{row.axes} -> {row.torch_axes}"
        arrays[row.name] = einops.rearrange(array, pattern, **_sizes(row, config))
    return arrays


def _by_class(head: Any, num_classes: int) -> Any:
    return einops.rearrange(head, "... (pq k) -> ... pq k", k=num_classes)


def _problems(state_dict: Mapping[str, np.ndarray], config: LatteConfig) -> list[str]:
    """All that keeps a state dict from being the config's."""
    abstract = nnx.eval_shape(lambda: nnx.to_pure_dict(nnx.state(Latte(config, nnx.Rngs(0)))))
    wanted = jax.eval_shape(lambda params: _parameters_to_torch(params, config), abstract)
    shapes = {name: leaf.shape for name, leaf in wanted.items()}
    problems = [f"missing {name}" for name in shapes if name not in state_dict]
    problems += [
        f"unexpected {name}"
        for name in sorted(state_dict.keys() - shapes.keys())
        if name not in TABLES
    ]
    problems += [
        f"{name} has shape {tuple(state_dict[name].shape)}, the config asks for {shape}"
        for name, shape in shapes.items()
        if name in state_dict and tuple(state_dict[name].shape) != shape
    ]
    return problems or [
        f"{name} is not the sine-cosine table that belongs to the model and is computed here"
        for name in TABLES
        if name in state_dict and not _is_table(name, state_dict[name], config.width)
    ]


def _is_table(name: str, stored: np.ndarray, width: int) -> bool:
    """Whether a stored table of positions is, up to its length, the one that is computed here."""
    if stored.ndim != 3:
        return False
    length = stored.shape[1]
    if name == "pos_embed":
        table = layers.sincos_2d(round(length**0.5), width)
    else:
        table = layers.sincos_1d(np.arange(length), width)
    return stored.shape == (1, *table.shape) and np.allclose(stored[0], table, atol=1e-4)


def _explain(state_dict: Mapping[str, np.ndarray], config: LatteConfig) -> str:
    """Says what a checkpoint is, if its sizes are not the config's."""
    found = sizes_from_torch(state_dict)
    differ = {name: getattr(config, name) for name in found if hasattr(config, name)}
    differ = {name: size for name, size in differ.items() if size != found[name]}
    if not differ:
        return ""
    sizes = ", ".join(f"{name} {found[name]}" for name in found if hasattr(config, name))
    shape = (found.get("depth"), found.get("width"))
    names = [name for name, size in VARIANTS.items() if (size["depth"], size["width"]) == shape]
    variant = f" ({names[0]}/{found['patch_size']})" if names and "patch_size" in found else ""
    says = ", ".join(f"{name} {size}" for name, size in differ.items())
    return f" (the checkpoint has {sizes}{variant}; the config says {says})"
