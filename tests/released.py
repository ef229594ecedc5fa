"""The released Latte: its numbers, and a plain float64 NumPy reading of its state dict.

The files hold logits only. The NumPy model, written from the paper's equations under torch's names,
is first held to those logits; then its stages are what the stages of `Latte` are held to.
"""

import json
from pathlib import Path

import numpy as np
from flax import nnx
from tiny import random_params

from maskflow_jax.models.latte import Latte, LatteConfig

REFERENCE = Path(__file__).parent / "reference"


def load_reference(index):
    """The reference file, its config in our names and the state dict."""
    reference = np.load(REFERENCE / f"latte_{index}.npz")
    settings = json.loads(str(reference["config"]))
    config = LatteConfig(
        codebook_size=settings["vocab_size"] - 1,
        depth=settings["depth"],
        width=settings["hidden_size"],
        num_heads=settings["num_heads"],
        patch_size=settings["patch_size"],
    )
    state = {name.removeprefix("state/"): reference[name] for name in reference if "state/" in name}
    return reference, config, state


def random_latte(config, seed=0):
    """Parameters of a model, none of them zero."""
    return random_params(lambda: Latte(config, nnx.Rngs(0)), seed=seed)


class NumpyLatte:
    """The model in float64, loop by loop."""

    def __init__(self, state, num_heads):
        self.state = {name: np.asarray(array, np.float64) for name, array in state.items()}
        self.num_heads = num_heads
        self.depth = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks."))

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def time_embedding(self, times):
        angles = times[..., None] * 10_000.0 ** (-np.arange(128) / 128)
        waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
        return self.linear("t_embedder.mlp.2", silu(self.linear("t_embedder.mlp.0", waves)))

    def embed(self, tokens):
        """[B, T, H, W] -> [B, T, N, D], a patch at a time."""
        kernel = self.state["x_embedder.proj.weight"]  # [D, C, p, p]
        side, embedded = kernel.shape[-1], self.state["vocab_embedding.weight"][tokens]
        patches = [
            np.einsum("btpqc,dcpq->btd", embedded[:, :, i : i + side, j : j + side], kernel)
            for i in range(0, tokens.shape[2], side)
            for j in range(0, tokens.shape[3], side)
        ]
        x = np.stack(patches, axis=2) + self.state["x_embedder.proj.bias"]
        return x + self.state["pos_embed"]

    def attention(self, name, x):
        """Over the axis before the last of [..., L, D]."""
        query, key, value = np.split(self.linear(f"{name}.qkv", x), 3, axis=-1)
        size, out = x.shape[-1] // self.num_heads, np.zeros_like(x)
        for head in range(self.num_heads):
            part = np.s_[..., head * size : (head + 1) * size]
            scores = query[part] @ np.swapaxes(key[part], -1, -2) / np.sqrt(size)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[part] = weights / weights.sum(axis=-1, keepdims=True) @ value[part]
        return self.linear(f"{name}.proj", out)

    def block(self, index, x, condition):
        """x [B, T, N, D], condition [B, T, D] activated; odd blocks mix frames."""
        name = f"blocks.{index}"
        modulation = self.linear(f"{name}.adaLN_modulation.1", condition)[:, :, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(modulation, 6, axis=-1)
        mixed = normalise(x) * (1 + scale1) + shift1
        if index % 2:
            mixed = np.swapaxes(self.attention(f"{name}.attn", np.swapaxes(mixed, 1, 2)), 1, 2)
        else:
            mixed = self.attention(f"{name}.attn", mixed)
        x = x + gate1 * mixed
        hidden = self.linear(f"{name}.mlp.fc1", normalise(x) * (1 + scale2) + shift2)
        return x + gate2 * self.linear(f"{name}.mlp.fc2", gelu(hidden))

    def logits(self, tokens, times):
        """[B, T, H, W, V]."""
        x, condition = self.embed(tokens), silu(self.time_embedding(times))
        for index in range(self.depth):
            if index == 1:
                x = x + self.state["temp_embed"][0][:, None]
            x = self.block(index, x, condition)
        modulation = self.linear("final_layer.adaLN_modulation.1", condition)[:, :, None]
        shift, scale = np.split(modulation, 2, axis=-1)
        out = self.linear("final_layer.linear", normalise(x) * (1 + scale) + shift)
        side = self.state["x_embedder.proj.weight"].shape[-1]
        logits = np.zeros((*tokens.shape, out.shape[-1] // side**2))
        per_row = tokens.shape[3] // side
        for patch in range(out.shape[2]):
            i, j = side * (patch // per_row), side * (patch % per_row)
            square = out[:, :, patch].reshape(*out.shape[:2], side, side, -1)
            logits[:, :, i : i + side, j : j + side] = square
        return logits


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def normalise(x):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
