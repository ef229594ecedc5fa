"""Speed and memory of a config's model on this device, against the device's own matmul peak.

Where there are several devices, each does the whole work: figures are of one.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskflow_jax import sharding
from maskflow_jax.models import flops
from maskflow_jax.sampling.samplers import SamplerConfig, make_window_sampler
from maskflow_jax.training import experiment
from maskflow_jax.training.optimizer import OptimizerConfig, make_optimizer
from maskflow_jax.training.state import init_state
from maskflow_jax.training.steps import make_train_step

PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # of the matrices that measure the peak
SAMPLER_STEPS = 4  # a step's time is a quarter of this window's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One compiled program.

    Attributes:
        name: what it is.
        compile_seconds: lowering and compilation.
        seconds: median of the runs, per step.
        spread: their interquartile range over the median.
        flops: model operations of a run's step; None where nothing is to be counted.
        bytes: arguments, results and temporaries on the device, as the compiler plans them.
    """

    name: str
    compile_seconds: float
    seconds: float
    spread: float
    flops: int | None
    bytes: int


def measure(
    name: str,
    function: Callable,
    arguments: tuple,
    *,
    repeats: int,
    steps: int = 1,
    flops: int | None = None,
    carries: bool = False,
) -> Timing:
    """Compiles and times a function.

    Args:
        name: for the table.
        function: jitted.
        arguments: of it.
        repeats: timed runs, after one that is not.
        steps: by which a run's time is divided.
        flops: model operations of a step.
        carries: the first result is the next run's first argument, which may be donated.

    Returns:
        The timing.
    """
    started = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - started
    seconds = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        results = jax.block_until_ready(compiled(*arguments))
        seconds.append((time.perf_counter() - started) / steps)
        if carries:
            arguments = (results[0], *arguments[1:])
    low, median, high = np.percentile(seconds[1:], [25, 50, 75])
    memory = compiled.memory_analysis()
    planned = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Timing(
        name=name,
        compile_seconds=compile_seconds,
        seconds=float(median),
        spread=float((high - low) / median),
        flops=flops,
        bytes=planned + memory.temp_size_in_bytes - memory.alias_size_in_bytes,
    )


def matmul_peak(dtype: str, repeats: int) -> float:
    """Operations per second of one large matrix product, the best of some runs."""
    side = PEAK_SIDE.get(jax.default_backend(), 4096)
    matrix = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a).lower(matrix).compile()
    best = np.inf
    for _ in range(max(3, repeats)):
        started = time.perf_counter()
        jax.block_until_ready(product(matrix))
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


class Benchmark:
    """The programs of a config.

    Args:
        config: resolved config; no dataset is read.
        batch_size: samples of every program.
        repeats: timed runs of each.
    """

    def __init__(self, config: dict[str, Any], *, batch_size: int, repeats: int):
        self.config, self.batch_size, self.repeats = config, batch_size, repeats
        self.latte = experiment.make_latte_config(config)
        self.frames, self.grid = config["data"]["clip_frames"], config["tokenizer"]["grid"]
        self.flow = experiment.make_flow(config)
        self.settings = OptimizerConfig(**config["optimizer"])
        self.graphdef, self.state = init_state(
            experiment.model_builder(config),
            make_optimizer(self.settings),
            jax.random.key(0),
            sharding.make_mesh(),
        )
        shape = (batch_size, self.frames, *self.grid)
        self.tokens = jax.random.randint(jax.random.key(1), shape, 0, self.latte.codebook_size)
        self.keys = jax.random.split(jax.random.key(2), batch_size)

    def run(self) -> list[Timing]:
        """Measures everything, once: the last program uses up the state."""
        features = self.batch_size * flops.features_flops(self.latte, self.frames, self.grid[0])
        head = self.batch_size * flops.head_flops(self.latte, self.frames, self.grid[0])
        return [
            self._features(features),
            self._forward(features + head),
            self._sampler("MGM step", "mgm", 0, features + head),
            self._sampler("FM step", "fm", 0, features + head),
            self._sampler("MGM step, 1 new frame", "mgm", self.frames - 1, None),
            self._gradient(3 * (features + head)),
            self._train_step(3 * (features + head)),
        ]

    def _model(self, params):
        return nnx.merge(self.graphdef, params)

    def _measure(self, name: str, function: Callable, *arguments, **settings) -> Timing:
        return measure(name, jax.jit(function), arguments, repeats=self.repeats, **settings)

    def _features(self, operations: int) -> Timing:
        def features(params, tokens, times):
            return self._model(params).features(tokens, times)

        times = jnp.zeros(self.tokens.shape[:2])
        return self._measure(
            "features", features, self.state["params"], self.tokens, times, flops=operations
        )

    def _forward(self, operations: int) -> Timing:
        """Features and head; of the logits only their maxima leave a frame."""

        def forward(params, tokens, times):
            model = self._model(params)
            frames = jnp.moveaxis(model.features(tokens, times), 1, 0)[:, :, None]
            return jax.lax.map(lambda frame: jnp.max(model.logits(frame), axis=-1), frames)

        times = jnp.zeros(self.tokens.shape[:2])
        return self._measure(
            "forward", forward, self.state["params"], self.tokens, times, flops=operations
        )

    def _sampler(self, label: str, name: str, context: int, operations: int | None) -> Timing:
        """One step of a window, as a share of a window of `SAMPLER_STEPS`."""
        sample = make_window_sampler(
            SamplerConfig(name=name, num_steps=SAMPLER_STEPS),
            self.flow.schedule,
            chunk_size=self.frames,
            context_frames=context,
            tokens_per_frame=self.grid[0] * self.grid[1],
            mask_id=self.latte.codebook_size,
        )
        known = jnp.broadcast_to(
            jnp.arange(self.frames)[:, None, None] < context, self.tokens.shape
        )

        def window(params, keys, tokens, known):
            model = self._model(params)
            return sample(model, keys, tokens, known)[0]

        return self._measure(
            label,
            window,
            self.state["params"],
            self.keys,
            self.tokens,
            known,
            steps=SAMPLER_STEPS,
            flops=operations,
        )

    def _train_function(self) -> Callable:
        optimizer = make_optimizer(self.settings)
        return make_train_step(self.graphdef, self.flow, optimizer, self.settings, self.state)

    def _gradient(self, operations: int) -> Timing:
        """Loss and gradient: the train step with all that follows left out by the compiler."""
        step = self._train_function().__wrapped__

        def gradient(state, key, tokens):
            return step(state, key, tokens)[1]

        return self._measure(
            "loss and gradient",
            gradient,
            self.state,
            jax.random.key(3),
            self.tokens,
            flops=operations,
        )

    def _train_step(self, operations: int) -> Timing:
        """The whole step, its state donated: afterwards `self.state` is gone."""
        return measure(
            "train step",
            self._train_function(),
            (self.state, jax.random.key(3), self.tokens),
            repeats=self.repeats,
            flops=operations,
            carries=True,
        )


def report(config: dict[str, Any], timings: list[Timing], peak: float) -> dict[str, Any]:
    """Everything as JSON values: device, versions, the programs, and what follows from them."""
    by_name = {timing.name: timing for timing in timings}
    forward = by_name["forward"].seconds
    device = jax.devices()[0]
    statistics = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "versions": {"jax": jax.__version__, "flax": flax.__version__},
        "model": config["model"],
        "frames": config["data"]["clip_frames"],
        "grid": config["tokenizer"]["grid"],
        "codebook_size": config["tokenizer"]["codebook_size"],
        "matmul_peak": peak,
        "device_peak_bytes": statistics.get("peak_bytes_in_use"),
        "programs": [
            {
                **dataclasses.asdict(timing),
                "over_forward": timing.seconds / forward,
                "of_peak": timing.flops and timing.flops / timing.seconds / peak,
            }
            for timing in timings
        ],
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        "| program | seconds | spread | over forward | GFLOP/s | of matmul peak | GB | compile |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["programs"]:
        rate = "" if row["flops"] is None else f"{row['flops'] / row['seconds'] / 1e9:.1f}"
        share = "" if row["of_peak"] is None else f"{100 * row['of_peak']:.0f}%"
        lines.append(
            f"| {row['name']} | {row['seconds']:.3f} | {100 * row['spread']:.0f}% "
            f"| {row['over_forward']:.2f} | {rate} | {share} | {row['bytes'] / 1e9:.2f} "
            f"| {row['compile_seconds']:.1f} s |"
        )
    return "\n".join(lines) + "\n"


def write(result: dict[str, Any], out: Path) -> None:
    """Writes OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(as_markdown(result))
