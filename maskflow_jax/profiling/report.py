"""What a benchmark found, as JSON and as a table."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax
import jax

from maskflow_jax.config import Config
from maskflow_jax.config_files import to_dict
from maskflow_jax.io.files import write_text
from maskflow_jax.profiling.benchmark import PUBLISHED, Timing
from maskflow_jax.profiling.host_speed import HostSpeed


def report(
    config: Config,
    timings: list[Timing],
    *,
    peak: float,
    batch_size: int,
    host: HostSpeed | None = None,
) -> dict[str, Any]:
    """Everything as JSON values: devices, versions, the programs, and what follows from them.

    Args:
        config: Config with a tokenizer.
        timings: of `Benchmark.run`.
        peak: `matmul_peak` of one device.
        batch_size: samples of every program.
        host: of `measure_host`.
    """
    device, peak = jax.devices()[0], peak * jax.device_count()
    seconds = {timing.name: timing.seconds for timing in timings}
    height, width = config.tokenizer.grid

    def row(timing: Timing) -> dict[str, Any]:
        rate = timing.frames and timing.frames / timing.seconds
        return {
            **dataclasses.asdict(timing),
            "over_forward": _over(timing.seconds, seconds.get("forward")),
            "over_features": _over(timing.seconds, seconds.get("features")),
            "over_ours": _over(timing.seconds, seconds.get(PUBLISHED.get(timing.name))),
            "flops_per_second": _over(timing.flops, timing.seconds),
            "of_peak": timing.flops and timing.flops / timing.seconds / peak,
            "frames_per_second": rate,
            "tokens_per_second": rate and rate * height * width,
        }

    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "versions": {"jax": jax.__version__, "flax": flax.__version__},
        "precision": config.model.dtype,
        "model": to_dict(config.model),
        "frames": config.data.clip_frames,
        "grid": list(config.tokenizer.grid),
        "codebook_size": config.tokenizer.codebook_size,
        "batch_size": batch_size,
        "matmul_peak": peak,
        "device_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "host": host and _host(host, seconds.get("train step"), batch_size),
        "programs": [row(timing) for timing in timings],
    }


def _over(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value / other


def _host(host: HostSpeed, step_seconds: float | None, batch_size: int) -> dict[str, Any]:
    needed = _over(batch_size, step_seconds)
    return {
        **dataclasses.asdict(host),
        "over_train_step": _over(host.clips_per_second, needed),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The report as a table, with a line on the host below it."""
    lines = [
        "| program | seconds | spread | over features | over forward | over ours | GFLOP/s "
        "| of matmul peak | frames/s | tokens/s | GB | compile |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["programs"]:
        numbers = [
            f"{row['seconds']:.3f}",
            f"{100 * row['spread']:.0f}%",
            _text(row["over_features"], ".2f"),
            _text(row["over_forward"], ".2f"),
            _text(row["over_ours"], ".2f"),
            _text(row["flops_per_second"], ".1f", 1e-9),
            _text(row["of_peak"], ".0f", 100, "%"),
            _text(row["frames_per_second"], ".3g"),
            _text(row["tokens_per_second"], ".3g"),
            f"{row['bytes'] / 1e9:.2f}",
            f"{row['compile_seconds']:.1f} s",
        ]
        lines.append(f"| {row['name']} | {' | '.join(numbers)} |")
    host = result["host"]
    if host:
        lines += ["", _host_line(host)]
    return "\n".join(lines) + "\n"


def _text(value: float | None, pattern: str, scale: float = 1, unit: str = "") -> str:
    return "" if value is None else f"{value * scale:{pattern}}{unit}"


def _host_line(host: dict[str, Any]) -> str:
    against = host["over_train_step"]
    return (
        f"Host: {host['clips_per_second']:.0f} clips/s from the input pipeline"
        + ("" if against is None else f", {against:.3g} times what the train step takes")
        + f"; {1e3 * host['overhead_seconds']:.2f} ms of Python around a step"
    )


def write(result: dict[str, Any], out: Path) -> None:
    """Writes OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    write_text(out.with_suffix(".md"), as_markdown(result))
