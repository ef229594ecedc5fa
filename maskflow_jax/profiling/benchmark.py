"""Speed and memory of a config's model on these devices, against their own matmul peak.

On several devices the batch is split and the parameters are placed as the config's mesh says, as in
training; seconds are of the whole, bytes of one device.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from maskflow_jax.config import Config
from maskflow_jax.config_files import to_dict
from maskflow_jax.parallel import sharding
from maskflow_jax.profiling import flops, published
from maskflow_jax.sampling.samplers import FM, MGM
from maskflow_jax.sampling.types import Sampler, WindowTokens
from maskflow_jax.sampling.window_sampler import WindowSampler
from maskflow_jax.training.building import make_flow, make_latte_config, model_builder
from maskflow_jax.training.optimizer import make_optimizer
from maskflow_jax.training.state import init_state
from maskflow_jax.training.steps import TrainStep, make_train_step

PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # of the matrices that measure the peak
SAMPLER_STEPS = 4  # a step's time is a quarter of this window's
# Programs of the published algorithms, and ours that does the same.
PUBLISHED = {
    "MGM step, as published": "MGM step",
    "FM step, as published": "FM step",
    "loss and gradient, as published": "loss and gradient",
}
CHUNK_REPEATS = 3  # at most: a whole chunk takes long


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One compiled program.

    Attributes:
        name: what it is.
        compile_seconds: lowering and compilation.
        seconds: median of the runs, per step.
        spread: their interquartile range over the median.
        flops: model operations of a run's step; None where nothing is to be counted.
        frames: new frames that a step makes, or training frames that it sees; None for neither.
        bytes: arguments, results and temporaries on a device, as the compiler plans them.
    """

    name: str
    compile_seconds: float
    seconds: float
    spread: float
    flops: int | None
    frames: int | None
    bytes: int


def measure(
    name: str,
    function: Callable,
    arguments: tuple,
    *,
    repeats: int,
    steps: int = 1,
    flops: int | None = None,
    frames: int | None = None,
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
        frames: see `Timing`.
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
        frames=frames,
        bytes=planned + memory.temp_size_in_bytes - memory.alias_size_in_bytes,
    )


def matmul_peak(dtype: str, repeats: int) -> float:
    """Operations per second of one large matrix product on one device, the best of some runs."""
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
        config: Config with a tokenizer; no dataset is read.
        batch_size: samples of every program, over all devices.
        repeats: timed runs of each.
        published: whether the published algorithms are measured too, which need the logits of
            all positions in memory; each comes after ours.

    Raises:
        ValueError: if the mesh does not cover the devices or the batch does not divide over them.
    """

    def __init__(self, config: Config, *, batch_size: int, repeats: int, published: bool = False):
        self.config, self.batch_size, self.repeats = config, batch_size, repeats
        self.published = published
        self.latte = make_latte_config(config)
        self.frames, self.grid = config.data.clip_frames, tuple(config.tokenizer.grid)
        self.flow = make_flow(config)
        self.settings = config.optimizer
        self.mesh = sharding.make_mesh(**to_dict(config.mesh))
        self.graphdef, self.state = init_state(
            model_builder(config),
            make_optimizer(self.settings),
            jax.random.key(0),
            self.mesh,
        )
        shape = (batch_size, self.frames, *self.grid)
        rng = np.random.default_rng(1)
        tokens = rng.integers(0, self.latte.codebook_size, shape, np.int32)
        times = rng.random(shape[:2], np.float32)
        self.tokens, self.times = sharding.place_batch(self.mesh, (tokens, times))
        keys = jax.random.split(jax.random.key(2), batch_size)
        self.keys = jax.device_put(keys, NamedSharding(self.mesh, sharding.BATCH))
        size = (self.latte, self.frames, self.grid[0])
        self.features_flops = batch_size * flops.features_flops(*size)
        self.forward_flops = self.features_flops + batch_size * flops.head_flops(*size)
        self.training_flops = batch_size * flops.training_flops(*size)

    def programs(self) -> dict[str, Callable[[str], Timing]]:
        """The programs by name; "train step" uses up the state and comes last."""
        last, mgm = self.frames - 1, MGM(num_steps=SAMPLER_STEPS)
        return {
            "features": self._features,
            "forward": self._forward,
            "MGM step": lambda name: self._step(name, mgm, 0),
            "FM step": lambda name: self._step(name, FM(num_steps=SAMPLER_STEPS), 0),
            "MGM step, 1 new frame": lambda name: self._step(
                name, MGM(num_steps=SAMPLER_STEPS), last
            ),
            "MGM chunk": lambda name: self._chunk(name, self._context_frames()),
            "MGM chunk, 1 new frame": lambda name: self._chunk(name, last),
            "MGM chunk, 1 new frame, cached": lambda name: self._chunk(
                name, last, context_cache=True
            ),
            "loss and gradient": self._gradient,
            **(self._published() if self.published else {}),
            "train step": self._train_step,
        }

    def run(self, names: Iterable[str] | None = None) -> list[Timing]:
        """Measures programs, all by default, once."""
        programs = self.programs()
        wanted = programs if names is None else names
        return [program(name) for name, program in programs.items() if name in wanted]

    def _context_frames(self) -> int:
        return self.config.sampling.context_frames

    def _model(self, params):
        return nnx.merge(self.graphdef, params)

    def _measure(self, name: str, function: Callable, *arguments, **settings) -> Timing:
        settings = {"repeats": self.repeats} | settings
        return measure(name, jax.jit(function), arguments, **settings)

    def _features(self, name: str) -> Timing:
        def features(params, tokens, times):
            return self._model(params).features(tokens, times)

        arguments = (self.state["params"], self.tokens, self.times)
        return self._measure(name, features, *arguments, flops=self.features_flops)

    def _forward(self, name: str) -> Timing:
        """Features and head; of the logits only their maxima leave a frame."""

        def forward(params, tokens, times):
            model = self._model(params)
            frames = jnp.moveaxis(model.features(tokens, times), 1, 0)[:, :, None]
            return jax.lax.map(lambda frame: jnp.max(model.logits(frame), axis=-1), frames)

        arguments = (self.state["params"], self.tokens, self.times)
        return self._measure(name, forward, *arguments, flops=self.forward_flops)

    def _window(
        self, sampler: Sampler, context: int, *, context_cache: bool = False
    ) -> tuple[Callable, tuple]:
        """A window's program and its arguments."""
        sample = WindowSampler(
            sampler=sampler,
            schedule=self.flow.schedule,
            context_cache=context_cache,
            frame_block=self.flow.frame_block,
        )
        known = np.arange(self.frames)[:, None, None] < context
        known = sharding.place_batch(self.mesh, np.broadcast_to(known, self.tokens.shape))

        def window(params, samples):
            return sample(self._model(params), *samples, context_frames=context)[0]

        arguments = (self.state["params"], (self.keys, WindowTokens(self.tokens, known)))
        return sharding.map_samples(self.mesh, window), arguments

    def _step(self, name: str, sampler: Sampler, context: int) -> Timing:
        """One step of a window, as a share of a window of `SAMPLER_STEPS`."""
        window, arguments = self._window(sampler, context)
        return self._measure(
            name,
            window,
            *arguments,
            steps=SAMPLER_STEPS,
            flops=None if context else self.forward_flops,
        )

    def _chunk(self, name: str, context: int, *, context_cache: bool = False) -> Timing:
        """A whole window of the paper's number of steps."""
        window, arguments = self._window(MGM(), context, context_cache=context_cache)
        return self._measure(
            name,
            window,
            *arguments,
            repeats=min(self.repeats, CHUNK_REPEATS),
            frames=self.batch_size * (self.frames - context),
        )

    def _train_function(self) -> TrainStep:
        optimizer = make_optimizer(self.settings)
        return make_train_step(self.graphdef, self.flow, optimizer, self.settings, self.state)

    def _gradient(self, name: str) -> Timing:
        """Loss and gradient: the train step with all that follows left out by the compiler."""
        step = self._train_function().__wrapped__

        def gradient(state, key, tokens):
            return step(state, key, tokens)[1]

        arguments = (self.state, jax.random.key(3), self.tokens)
        return self._measure(name, gradient, *arguments, flops=self.training_flops)

    def _published(self) -> dict[str, Callable[[str], Timing]]:
        """Programs of the published algorithms; `PUBLISHED` says with which of ours they compare.

        Tokens are random, so no position is masked, which changes nothing about the work.
        """

        def mgm(params, key, tokens, times):
            return published.mgm_step(self._model(params), key, tokens, times, 16)

        def fm(params, key, tokens, times):
            model = self._model(params)
            return published.fm_step(model, key, tokens, times, 1 / 250, self.flow.schedule)

        def gradient(params, key, tokens, times):
            return jax.grad(
                lambda params: published.loss(self._model(params), key, tokens, self.flow)
            )(params)

        def measured(function: Callable) -> Callable[[str], Timing]:
            key = jax.random.key(4)
            return lambda name: self._measure(
                name, function, self.state["params"], key, self.tokens, self.times
            )

        functions = zip(PUBLISHED, (mgm, fm, gradient), strict=True)
        return {name: measured(function) for name, function in functions}

    def _train_step(self, name: str) -> Timing:
        """The whole step, its state donated: afterwards `self.state` is gone."""
        return measure(
            name,
            self._train_function(),
            (self.state, jax.random.key(3), self.tokens),
            repeats=self.repeats,
            flops=self.training_flops,
            frames=self.batch_size * self.frames,
            carries=True,
        )
