"""Tokenizers in torch for tests of their export; the first has the reference checkpoint's layers.

Written from the description of the network (see `vqgan.py`), as functions of a state dict: there is
nothing to construct, so any checkpoint's names can be run.
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

REFERENCE = Path(__file__).parent / "reference" / "vq_f8_tiny.safetensors"


def make_reference():
    """What `launch.export_tokenizer --module=torch_vq:make_reference` calls."""
    return VQ(load_file(REFERENCE))


class VQ(nn.Module):
    """A VQ autoencoder of LDM, run by the names of its weights."""

    def __init__(self, weights):
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in weights}
        for name, tensor in weights.items():
            self.register_buffer(self.names[name], tensor)

    def encode(self, images):
        x = self._conv("encoder.conv_in", images)
        level = 0
        while self._has(f"encoder.down.{level}.block.0"):
            x = self._level(f"encoder.down.{level}", x)
            if self._has(f"encoder.down.{level}.downsample"):
                x = functional.pad(x, (0, 1, 0, 1))
                x = self._conv(f"encoder.down.{level}.downsample.conv", x, stride=2, padding=0)
            level += 1
        x = self._conv(
            "encoder.conv_out", self._active("encoder.norm_out", self._mid("encoder", x))
        )
        x = self._conv("quant_conv", x).permute(0, 2, 3, 1)
        codes = self._get("quantize.embedding.weight")
        return (codes.square().sum(-1) - 2 * x @ codes.T).argmin(-1)

    def decode(self, tokens):
        x = self._get("quantize.embedding.weight")[tokens].permute(0, 3, 1, 2)
        x = self._conv("decoder.conv_in", self._conv("post_quant_conv", x))
        x = self._mid("decoder", x)
        levels = {name.split(".")[2] for name in self.names if name.startswith("decoder.up.")}
        for level in sorted(map(int, levels), reverse=True):
            x = self._level(f"decoder.up.{level}", x)
            if self._has(f"decoder.up.{level}.upsample"):
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self._conv(f"decoder.up.{level}.upsample.conv", x)
        return self._conv("decoder.conv_out", self._active("decoder.norm_out", x))

    def _has(self, prefix):
        return any(name.startswith(f"{prefix}.") for name in self.names)

    def _get(self, name):
        return getattr(self, self.names[name])

    def _conv(self, name, x, stride=1, padding="same"):
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return functional.conv2d(x, weight, bias, stride=stride, padding=padding)

    def _norm(self, name, x):
        return functional.group_norm(
            x, 32, self._get(f"{name}.weight"), self._get(f"{name}.bias"), eps=1e-6
        )

    def _active(self, name, x):
        return functional.silu(self._norm(name, x))

    def _residual(self, name, x):
        h = self._conv(f"{name}.conv1", self._active(f"{name}.norm1", x))
        h = self._conv(f"{name}.conv2", self._active(f"{name}.norm2", h))
        return h + (
            self._conv(f"{name}.nin_shortcut", x) if self._has(f"{name}.nin_shortcut") else x
        )

    def _attend(self, name, x):
        h = self._norm(f"{name}.norm", x)
        q, k, v = (self._conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        shares = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(-1)
        return x + self._conv(f"{name}.proj_out", (v @ shares.transpose(1, 2)).view_as(x))

    def _mid(self, part, x):
        x = self._attend(f"{part}.mid.attn_1", self._residual(f"{part}.mid.block_1", x))
        return self._residual(f"{part}.mid.block_2", x)

    def _level(self, name, x):
        index = 0
        while self._has(f"{name}.block.{index}"):
            x = self._residual(f"{name}.block.{index}", x)
            if self._has(f"{name}.attn.{index}"):
                x = self._attend(f"{name}.attn.{index}", x)
            index += 1
        return x


class Patches:
    """The mean brightness of 4x4 patches, in 16 steps: a tokenizer without weights."""

    def encode(self, images):
        means = functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        return ((means + 1) * 8).long().clamp(0, 15)

    def decode(self, tokens):
        images = (tokens.float() + 0.5) / 8 - 1
        return images.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].repeat(1, 3, 1, 1)
