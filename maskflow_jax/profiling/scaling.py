"""Predicts how training scales, from programs compiled for many devices that are not there.

The train step is compiled for meshes of CPU devices that exist in name only. From the compiled
program come the bytes that a device holds and sends; from the model's operations and a table of
published speeds follow the time to compute and the time to send. Nothing is measured.

Two simplifications make it a prediction and no more. A CPU's compiler sums gradients everywhere and
keeps a part, where compilers for GPUs and TPUs scatter the sum and send half as much; and it keeps
bfloat16 arrays in float32. So the bytes are upper bounds.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from maskflow_jax.config import Config
from maskflow_jax.io.files import write_text
from maskflow_jax.parallel import sharding
from maskflow_jax.profiling import flops
from maskflow_jax.profiling.collectives import Transfer, transfers
from maskflow_jax.training.building import make_flow, make_latte_config, model_builder
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.state import abstract_state
from maskflow_jax.training.steps import make_train_step

EFFICIENCY = 0.5  # of the published peak that matrix products reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """A kind of device, by its maker's figures.

    Attributes:
        flops: Peak operations per second in bfloat16, without sparsity.
        memory: Bytes of a device.
        node: Number of devices that are joined by the fast links.
        fast: Bytes per second that a device sends within a node.
        slow: Bytes per second that it sends to other nodes.
    """

    flops: float
    memory: float
    node: int
    fast: float
    slow: float


HARDWARE = {
    # NVLink 4 sends 450 GB/s each way; one 400 Gb/s InfiniBand adapter per GPU between nodes.
    "H100": Hardware(flops=989e12, memory=80e9, node=8, fast=450e9, slow=50e9),
    "H200": Hardware(flops=989e12, memory=141e9, node=8, fast=450e9, slow=50e9),
    # Inter-chip links, both ways together: 1,600 Gb/s for v5e (pods of 256) and 4,800 for v5p.
    "TPU v5e": Hardware(flops=197e12, memory=16e9, node=256, fast=100e9, slow=25e9),
    "TPU v5p": Hardware(flops=459e12, memory=95e9, node=8960, fast=300e9, slow=25e9),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
    """What one device does in a train step on one mesh.

    Attributes:
        mesh: Devices along (data, fsdp, tensor).
        clips: Clips per device.
        flops: Model operations.
        bytes: State and activations.
        transfers: What it sends.
    """

    mesh: tuple[int, int, int]
    clips: float
    flops: float
    bytes: int
    transfers: tuple[Transfer, ...]

    @property
    def devices(self) -> int:
        """Number of devices."""
        return math.prod(self.mesh)

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return sum(transfer.bytes for transfer in self.transfers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The step time of a mesh on some hardware, in seconds.

    Attributes:
        compute: Time to compute.
        send: Time to send, if nothing is computed meanwhile.
        fits: Whether state and activations fit in memory.
    """

    compute: float
    send: float
    fits: bool

    @property
    def efficiency(self) -> tuple[float, float]:
        """Share of the step that is computing, if nothing and if everything overlaps."""
        return self.compute / (self.compute + self.send), min(1.0, self.compute / self.send)


def count(config: Config, mesh_shape: tuple[int, int, int], clips_per_device: float) -> Count:
    """Compiles the train step for a mesh; nothing is allocated.

    Args:
        config: Config with a tokenizer.
        mesh_shape: Devices along (data, fsdp, tensor), at most as many as jax has.
        clips_per_device: Clips of the batch over the number of devices; the batch is rounded up to
            one clip for every group of `tensor` devices.

    Returns:
        The count.

    Raises:
        ValueError: if jax has fewer devices.
    """
    data, fsdp, tensor = mesh_shape
    devices = jax.devices()
    if math.prod(mesh_shape) > len(devices):
        raise ValueError(f"a mesh {mesh_shape} needs more than {len(devices)} devices")
    mesh = Mesh(
        np.array(devices[: math.prod(mesh_shape)]).reshape(mesh_shape),
        sharding.AXES,
        axis_types=(AxisType.Auto,) * 3,
    )
    batch_size = data * fsdp * max(1, round(clips_per_device * tensor))
    optimizer = make_optimizer(config.optimizer)
    graphdef, state = abstract_state(model_builder(config), optimizer, mesh)
    step = make_train_step(graphdef, make_flow(config), optimizer, config.optimizer, state)
    shape = (batch_size, config.data.clip_frames, *config.tokenizer.grid)
    placed = NamedSharding(mesh, sharding.BATCH)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placed)
    compiled = step.lower(state, jax.random.key(0), tokens).compile()
    memory = compiled.memory_analysis()
    size = (make_latte_config(config), config.data.clip_frames, config.tokenizer.grid[0])
    return Count(
        mesh=mesh_shape,
        clips=batch_size / mesh.size,
        flops=batch_size * flops.training_flops(*size) / mesh.size,
        bytes=memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        transfers=tuple(transfers(compiled.as_text())),
    )


def predict(counted: Count, hardware: Hardware) -> Prediction:
    """Predicts a step's time.

    Args:
        counted: What a device does.
        hardware: The devices.

    Returns:
        The prediction; groups that span nodes also send over the slow links, of
        which every device of a node has one.
    """
    send = sum(_seconds(transfer, hardware) for transfer in counted.transfers)
    return Prediction(
        compute=counted.flops / (hardware.flops * EFFICIENCY),
        send=send,
        fits=counted.bytes <= hardware.memory,
    )


def _seconds(transfer: Transfer, hardware: Hardware) -> float:
    within = transfer.bytes / hardware.fast
    if transfer.span <= hardware.node:
        return within
    # The members of a group on one node share what the group sends to other nodes.
    members = max(1, hardware.node * transfer.group // transfer.span)
    return max(within, transfer.bytes / members / hardware.slow)


def parse_mesh(text: str) -> tuple[int, int, int]:
    """Reads a mesh such as "8x2x1".

    Raises:
        ValueError: if it is not three numbers of devices.
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"mesh {text!r} is not DATAxFSDPxTENSOR, such as 8x2x1")
    data, fsdp, tensor = (int(part) for part in parts)
    return data, fsdp, tensor


def plot(counts: Iterable[Count], path: str | Path) -> None:
    """Plots the efficiency over the number of devices, a panel for each kind of hardware.

    Raises:
        ImportError: if matplotlib, of the extra `report`, is missing.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(HARDWARE), figsize=(4 * len(HARDWARE), 3.4), sharey=True)
    by_shape: dict[tuple[int, int], list[Count]] = {}
    for counted in sorted(counts, key=lambda c: c.devices):
        by_shape.setdefault(counted.mesh[1:], []).append(counted)
    for panel, (name, hardware) in zip(panels, HARDWARE.items(), strict=True):
        for (fsdp, tensor), row in by_shape.items():
            devices = [counted.devices for counted in row]
            low, high = zip(*(predict(each, hardware).efficiency for each in row), strict=True)
            (line,) = panel.plot(devices, low, "o-", label=f"fsdp {fsdp}, tensor {tensor}")
            panel.fill_between(devices, low, high, alpha=0.12, color=line.get_color())
        panel.set(title=name, xscale="log", xlabel="devices", ylim=(0, 1.02))
        panel.set_xticks(sorted({d.devices for r in by_shape.values() for d in r}))
        panel.get_xaxis().set_major_formatter("{x:.0f}")
        panel.minorticks_off()
    panels[0].set_ylabel("predicted efficiency")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(counts: Iterable[Count], names: Iterable[str] = tuple(HARDWARE)) -> str:
    """Draws the predictions as a markdown table, a row per mesh."""
    names = list(names)
    heads = [f"{name}: seconds, efficiency" for name in names]
    lines = [
        "| devices | data x fsdp x tensor | clips each | GB held | GB sent | "
        + " | ".join(heads)
        + " |",
        "|---" * (5 + len(heads)) + "|",
    ]
    for counted in counts:
        cells = []
        for name in names:
            found = predict(counted, HARDWARE[name])
            low, high = found.efficiency
            text = f"{found.compute + found.send:.2f}, {low:.0%} to {high:.0%}"
            cells.append(text if found.fits else f"does not fit ({text})")
        mesh = " x ".join(map(str, counted.mesh))
        lines.append(
            f"| {counted.devices} | {mesh} | {counted.clips:g} | {counted.bytes / 1e9:.1f} "
            f"| {counted.sent / 1e9:.2f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def write(counts: Iterable[Count], out: Path) -> None:
    """Writes the counts as OUT/scaling.json, the table scaling.md and the plot scaling.png."""
    counts = list(counts)
    out.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(counted) for counted in counts]
    write_text(out / "scaling.json", json.dumps(rows, indent=1) + "\n")
    write_text(out / "scaling.md", table(counts))
    plot(counts, out / "scaling.png")
