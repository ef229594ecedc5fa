"""The settings of an evaluation."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskflow_jax.evaluation.protocols import find_protocol
from maskflow_jax.evaluation.real_videos import MODES
from maskflow_jax.io.settings import refuse

DEFAULT_CLIP_FRAMES = 16  # of a measured window: what all feature networks take


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """All that decides the numbers of an evaluation, beside the model.

    Attributes:
        protocol: Name of an FVD protocol (`evaluation.protocols.PROTOCOLS`); None measures what
            needs no I3D weights.
        i3d: File of the I3D weights, for a protocol.
        real: Real videos of an FVD, "raw" or "reconstructed"; None for the protocol's.
        num_videos: Number of generated videos of each draw.
        seeds: Seed of each draw.
        length: Number of frames of a generated video, context included; None for 5 windows.
        sampling: Changes of the model's sampling settings, such as "sampler.name=fm".
        clip_frames: Number of frames of the windows that are measured; None for 16.
        permit_few: Whether to measure an FVD of fewer than 256 videos or of very short clips.
        batch_size: Videos sampled at a time, and clips of a batch of the feature networks.
        bits_clips: Number of validation clips on which bits per token are measured.
        source: Source of the real videos (`data.sources.registry.SOURCES`), whose frames are then
            known as they are; None for the dataset's tokens.
        source_settings: Fields of the source.
        num_real: Largest number of real videos; None for all.
    """

    protocol: str | None = None
    i3d: str | None = None
    real: str | None = None
    num_videos: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    length: int | None = None
    sampling: tuple[str, ...] = ()
    clip_frames: int | None = None
    permit_few: bool = False
    batch_size: int = 8
    bits_clips: int = 64
    source: str | None = None
    source_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_real: int | None = None

    def __post_init__(self):
        """Raises ValueError, with all problems at once, for settings that cannot be measured."""
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "sampling", tuple(self.sampling))
        object.__setattr__(self, "i3d", None if self.i3d is None else str(self.i3d))
        plain = {name: _plain(value) for name, value in self.source_settings.items()}
        object.__setattr__(self, "source_settings", plain)
        problems = []
        if self.protocol is not None:
            find_protocol(self.protocol)
            if self.i3d is None:
                problems.append(
                    f"protocol {self.protocol} needs the argument i3d, a file of I3D weights: no "
                    "number is called FVD without them"
                )
        if self.real not in (None, *MODES):
            problems.append(f"real is {self.real!r}: choose one of {', '.join(MODES)}")
        if len(set(self.seeds)) < max(1, len(self.seeds)):
            problems.append(f"seeds {self.seeds}: give one or more that differ")
        refuse(
            "",
            self,
            {"num_videos": (2, None), "batch_size": (1, None), "bits_clips": (1, None)}
            | {"clip_frames": (2, None), "num_real": (2, None), "length": (2, None)},
            more=tuple(problems),
        )


def _plain(value: Any) -> Any:
    """A value as JSON holds it: paths as texts."""
    return str(value) if isinstance(value, Path) else value
