"""The models of a page: each is loaded once and shared by all visitors."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from maskflow_jax.app.captions import any_caption, takes_captions
from maskflow_jax.generation.request import Generation
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.sampling.samplers import MGM
from maskflow_jax.training.model_files import CONFIG, PRETRAINED

KEPT = 2  # models in memory
TIMED_WINDOWS, TIMED_STEPS = 3, 2


def shipped_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(file.parent.name for file in PRETRAINED.glob(f"*/{CONFIG}"))


class Models:
    """Loaded models by path or name, the last used ones in memory.

    Args:
        offered: Paths and names that the page offers.
        any_path: Whether a visitor may name another folder of this machine.
        places: Further arguments of `VideoGenerator.load`, such as `dataset`.
        timed: Whether a model is timed when it is loaded.
    """

    def __init__(
        self,
        offered: Sequence[str],
        *,
        any_path: bool = False,
        places: Mapping[str, str] | None = None,
        timed: bool = True,
    ):
        if not offered:
            raise ValueError("no model is offered; name a run, an exported model or a shipped one")
        self.offered, self.any_path = list(offered), any_path
        self.places = dict(places or {})
        self._timed = timed
        self._loaded: OrderedDict[str, VideoGenerator] = OrderedDict()
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> VideoGenerator:
        """Returns a model, loaded if it is not in memory.

        Raises:
            ValueError: if it is not offered, or damaged.
            FileNotFoundError: if it, its tokenizer or its encoder of captions is missing.
            ImportError: if a package that its encoder needs is missing.
        """
        if name not in self.offered and not self.any_path:
            raise ValueError(f"the model {name!r} is not offered; choose {self.offered}")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _load(self, name: str) -> VideoGenerator:
        generator = VideoGenerator.load(name, **self.places)
        if self._timed and name not in self._seconds:
            self._seconds[name] = _seconds_per_evaluation(generator)
        return generator

    def expected_seconds(self, name: str, generation: Generation) -> float | None:
        """Seconds that a planned video takes without compilation; None if nothing is timed."""
        rate = self._seconds.get(name)
        return None if rate is None else rate * generation.nfe

    def note_speed(self, name: str, seconds_per_evaluation: float) -> None:
        """Notes how fast a model was, which is what is expected of it from then on."""
        self._seconds[name] = seconds_per_evaluation


def _seconds_per_evaluation(generator: VideoGenerator) -> float:
    """Times a network evaluation in windows of few steps, without the first, which is compiled."""
    k = generator.window
    context = min(k - 1, max(1, generator.model.config.sampling.context_frames))
    length, said = k + (TIMED_WINDOWS - 1) * (k - context), {}
    if takes_captions(generator):
        said = {"captions": [any_caption(generator)], "frames_per_scene": length, "guidance": 1.0}
    generation = generator.plan(
        length, sampler=MGM(num_steps=TIMED_STEPS), context_frames=context, stride=None, **said
    )
    real = np.zeros((1, context, *generator.model.config.tokenizer.grid), np.int32)
    seconds, started = [], time.monotonic()
    for _ in generator.sample_windows(generation, real, seed=0):
        now = time.monotonic()
        seconds.append((now - started) / TIMED_STEPS)
        started = now
    return float(np.median(seconds[1:]))
