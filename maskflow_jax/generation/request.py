"""What a call of the generator asks for, checked and planned before anything is sampled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskflow_jax.config import Config, SamplingConfig
from maskflow_jax.generation.scenes import SceneTexts, guided
from maskflow_jax.io.settings import unknown_name
from maskflow_jax.sampling.tasks import Task, TaskRequest, make_task
from maskflow_jax.sampling.types import Plan
from maskflow_jax.sampling.window_sampler import WindowSampler
from maskflow_jax.training.building import make_noise_schedule

_TASK_OPTIONS = ("box", "known", "known_frames")
_SAMPLING = tuple(field.name for field in dataclasses.fields(SamplingConfig))
OPTIONS = (*_SAMPLING, *_TASK_OPTIONS, "captions", "frames_per_scene")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """A planned generation.

    Attributes:
        task: The task with its windows.
        sampling: How windows are sampled.
        expected_seconds: Seconds for one batch, from what was measured so far; None before the
            first generation.
        texts: Captions of the scenes and their frames, in the order of the result; or None.
    """

    task: Task
    sampling: SamplingConfig
    expected_seconds: float | None = None
    texts: SceneTexts | None = None

    @property
    def plan(self) -> Plan:
        """The windows."""
        return self.task.plan

    @property
    def texts_in_order(self) -> SceneTexts | None:
        """Captions with their frames in the order of sampling."""
        if self.texts is None:
            return None
        frames = np.arange(len(self.task.known)) % self.task.shown  # a loop ends as it begins
        return self.texts.in_order(frames[::-1] if self.task.backward else frames)

    @property
    def nfe(self) -> int:
        """Number of network evaluations of each video."""
        return self.plan.nfe

    def __str__(self) -> str:
        seconds = self.expected_seconds
        return str(self.plan) + ("" if seconds is None else f", about {seconds:.0f} s")


def plan_generation(
    config: Config,
    task: str,
    length: int,
    options: Mapping[str, Any],
    texts: SceneTexts | None = None,
) -> Generation:
    """Plans a generation.

    Args:
        config: Config of the model.
        task: A key of `sampling.tasks.TASKS`.
        length: Number of frames of the video.
        options: Settings that replace those of `config.sampling`, `known_frames` for a context
            that is shorter than theirs, and `box` or `known` for in-painting.
        texts: Captions of the scenes.

    Raises:
        ValueError: if there is no such video, or settings exclude each other.
        TypeError: for an unknown option.
    """
    if unknown := [unknown_name(name, OPTIONS) for name in options if name not in OPTIONS]:
        raise TypeError("; ".join(unknown).replace("setting", "option"))
    extra = {name: options[name] for name in _TASK_OPTIONS if name in options}
    changes = {name: options[name] for name in options if name in _SAMPLING}
    default = config.sampling.guidance
    guidance = guided(options.get("guidance"), default, by_captions=texts is not None)
    changes["guidance"] = guidance
    sampling = dataclasses.replace(config.sampling, **changes)
    make_window_sampler(config, sampling)  # its errors should come before anything slow
    request = TaskRequest(
        sampler=sampling.sampler,
        length=length,
        chunk_size=config.data.clip_frames,
        context_frames=sampling.context_frames,
        grid=tuple(config.tokenizer.grid),
        stride=sampling.stride,
        guidance=sampling.guidance,
        **extra,
    )
    return Generation(task=make_task(task, request), sampling=sampling, texts=texts)


def make_window_sampler(config: Config, sampling: SamplingConfig) -> WindowSampler:
    """Returns the sampler of windows that settings describe, for the network of a config."""
    return WindowSampler(
        sampler=sampling.sampler,
        schedule=make_noise_schedule(config),
        decoding=sampling.decoding,
        guidance=sampling.guidance,
        context_time=sampling.context_time,
        context_cache=sampling.context_cache,
        frame_block=sampling.frame_block,
    )
