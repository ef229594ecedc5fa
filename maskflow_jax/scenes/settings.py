"""Settings of training with scenes, and the record of what a network is conditioned on."""

import dataclasses

from maskflow_jax.io.settings import refuse

CONDITIONS = ("none", "labels", "captions")
WINDOWS = ("consecutive", "unrelated", "sliding")
FREE = {"free": True}  # as `config.FREE`


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """Several scenes in a window, each with its condition.

    Attributes:
        condition: What frames are conditioned on: "none", the "labels" or the "captions" of the
            dataset's scenes.
        num_scenes: Number of scenes S of a window. For windows that are not "sliding", every
            scene has `data.clip_frames` / S frames.
        windows: How training windows are made: S "consecutive" scenes of a video; S scenes of
            "unrelated" videos, put together; or "sliding", frames of a video from anywhere, with
            scenes of any length. A run may go on with other windows.
        text_update: Whether captions change from block to block, and see frames of their scene.
        scope: Which captions a frame sees, that of its "scene" or "all" of the window.
        context_probability: Share of the clips in which all scenes but the last are clean.
        drop_probability: Share of the clips whose conditions are dropped, for guidance.
        encoder: Folder of the encoder that embeds captions; empty where words are learned.
    """

    condition: str = "none"
    num_scenes: int = 3
    windows: str = dataclasses.field(default="consecutive", metadata=FREE)
    text_update: bool = False
    scope: str = "scene"
    context_probability: float = dataclasses.field(default=0.5, metadata=FREE)
    drop_probability: float = 0.1
    encoder: str = dataclasses.field(default="", metadata=FREE)

    def __post_init__(self):
        refuse(
            "",
            self,
            {
                "num_scenes": (1, None),
                "context_probability": (0, 1),
                "drop_probability": (0, 1),
            },
            {"condition": CONDITIONS, "windows": WINDOWS, "scope": ("scene", "all")},
        )

    @property
    def active(self) -> bool:
        """Whether frames are conditioned on anything."""
        return self.condition != "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionsRecord:
    """Identity of what turns labels or captions into conditions, as `encoders` have it.

    Attributes:
        kind: "labels", "words" or "embeddings".
        name: Name of the encoder's folder.
        sha256: Digest of the names, or of the encoder's files.
        names: Labels or words, in the order of their ids.
        length: Number of tokens Lt of the longest caption; 0 for labels.
        width: Number of channels of an embedding; 0 for labels and words.
    """

    kind: str
    name: str = dataclasses.field(default="", metadata=FREE)
    sha256: str = ""
    names: tuple = ()
    length: int = 0
    width: int = 0

    def __post_init__(self):
        if self.kind not in ("labels", "words", "embeddings"):
            raise ValueError(f"kind is {self.kind!r}; it is labels, words or embeddings")
