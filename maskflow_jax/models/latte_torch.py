"""Released torch checkpoints as parameters of `Latte`: one table of names and layouts.

Block 2i of a checkpoint is pair i's spatial block, block 2i + 1 its temporal one; here all pairs
are stacked along a leading axis. The released models also predict the mask token, as their last
class, which nothing ever uses: its row of the head is dropped.
"""

import einops
import numpy as np

from maskflow_jax.models.latte import LatteConfig

# torch name -> (path of the parameter, layout)
OUTER = {
    "vocab_embedding.weight": ("token_embedding.embedding", "same"),
    "x_embedder.proj.weight": ("patch_projection.kernel", "patch"),
    "x_embedder.proj.bias": ("patch_projection.bias", "same"),
    "t_embedder.mlp.0.weight": ("time_embedding.fc1.kernel", "linear"),
    "t_embedder.mlp.0.bias": ("time_embedding.fc1.bias", "same"),
    "t_embedder.mlp.2.weight": ("time_embedding.fc2.kernel", "linear"),
    "t_embedder.mlp.2.bias": ("time_embedding.fc2.bias", "same"),
    "final_layer.adaLN_modulation.1.weight": ("final_modulation.kernel", "linear"),
    "final_layer.adaLN_modulation.1.bias": ("final_modulation.bias", "same"),
    "final_layer.linear.weight": ("head.kernel", "head"),
    "final_layer.linear.bias": ("head.bias", "head"),
}
BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "adaLN_modulation.1": "modulation",
}
# Fixed sin-cos tables, stored in checkpoints but computed here.
IGNORED = ("pos_embed", "temp_embed")


def from_torch(state_dict: dict[str, np.ndarray], config: LatteConfig) -> dict:
    """Converts a torch state dict of a released model.

    Args:
        state_dict: torch parameter names to arrays.
        config: the model they belong to.

    Returns:
        The nested parameter dict of `Latte(config)`, float32.

    Raises:
        ValueError: with all missing, unexpected and mis-shaped names at once.
    """
    shapes = _torch_shapes(config)
    problems = [f"missing {name}" for name in shapes if name not in state_dict]
    problems += [
        f"unexpected {name}"
        for name in sorted(state_dict.keys() - shapes.keys())
        if name not in IGNORED
    ]
    problems += [
        f"{name} has shape {state_dict[name].shape}, the config asks for {shape}"
        for name, shape in shapes.items()
        if name in state_dict and state_dict[name].shape != shape
    ]
    if problems:
        raise ValueError("the checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    arrays = {name: np.asarray(state_dict[name], np.float32) for name in shapes}
    flat = {path: _to_jax(arrays[name], layout, config) for name, (path, layout) in OUTER.items()}
    for torch_name, path in BLOCK.items():
        for kind, first in (("spatial", 0), ("temporal", 1)):
            names = [f"blocks.{i}.{torch_name}" for i in range(first, config.depth, 2)]
            prefix = f"blocks.{kind}.{path}"
            flat[f"{prefix}.kernel"] = np.stack([arrays[f"{name}.weight"].T for name in names])
            flat[f"{prefix}.bias"] = np.stack([arrays[f"{name}.bias"] for name in names])
    return _nest(flat)


def _to_jax(array: np.ndarray, layout: str, config: LatteConfig) -> np.ndarray:
    if layout == "linear":
        return array.T
    if layout == "patch":
        return einops.rearrange(array, "d c p q -> (p q c) d")
    if layout == "head":
        by_class = einops.rearrange(array, "(pq k) ... -> pq k ...", k=config.codebook_size + 1)[
            :, :-1
        ]
        merged = einops.rearrange(by_class, "pq k ... -> (pq k) ...")
        return merged.T
    return array


def _torch_shapes(config: LatteConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released state dict, the fixed tables left out."""
    width, hidden = config.width, config.mlp_ratio * config.width
    classes, patch = config.codebook_size + 1, config.patch_size
    linears = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (patch**2 * classes, width),
    }
    for index in range(config.depth):
        linears |= {
            f"blocks.{index}.attn.qkv": (3 * width, width),
            f"blocks.{index}.attn.proj": (width, width),
            f"blocks.{index}.mlp.fc1": (hidden, width),
            f"blocks.{index}.mlp.fc2": (width, hidden),
            f"blocks.{index}.adaLN_modulation.1": (6 * width, width),
        }
    shapes = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    return shapes | {
        "vocab_embedding.weight": (classes, width // 2),
        "x_embedder.proj.weight": (width, width // 2, patch, patch),
        "x_embedder.proj.bias": (width,),
    }


def _nest(flat: dict[str, np.ndarray]) -> dict:
    nested: dict = {}
    for path, array in flat.items():
        *parents, leaf = path.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = array
    return nested
