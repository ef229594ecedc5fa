"""Captions on the page: one in a line, and each line is a scene."""

import dataclasses

from maskflow_jax.generation.scenes import scene_frames
from maskflow_jax.generator import VideoGenerator

# Captions of mazes: shown first where the model knows their words.
EXAMPLE = (
    "red walls, walking straight",
    "azure and white walls, turning left",
    "green walls, turning right",
)
ANYTHING = "anything"  # a caption for encoders that know all words


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionEntries:
    """What the entries for captions hold when a model is chosen.

    Attributes:
        taken: Whether the model takes captions or labels.
        captions: The captions, a line each.
        info: What may be written.
        frames_per_scene: Number of frames of a scene.
        guidance: Weight of guidance by captions.
    """

    taken: bool
    captions: str = ""
    info: str = ""
    frames_per_scene: int = 1
    guidance: float = 1.0


def takes_captions(generator: VideoGenerator) -> bool:
    """Whether a model was trained with captions or labels."""
    return generator.model.config.conditions is not None


def first_entries(generator: VideoGenerator) -> CaptionEntries:
    """Returns what the entries for captions hold first."""
    if not takes_captions(generator):
        return CaptionEntries(taken=False)
    config, record = generator.model.config, generator.encoder.record
    info = f"One in a line; each is a scene. Up to {record.length} words or parts of words."
    if record.kind == "words":
        info = (
            f"One in a line; each is a scene. Up to {record.length} of the words "
            f"{', '.join(record.names)}."
        )
    elif record.kind == "labels":
        info = f"One in a line; each is a scene. The labels are {', '.join(record.names)}."
    return CaptionEntries(
        taken=True,
        captions="\n".join(_example(generator)),
        info=info,
        frames_per_scene=scene_frames(config, None),
        guidance=config.sampling.guidance.captions,
    )


def read_captions(generator: VideoGenerator, text: str | None) -> tuple[str, ...]:
    """Reads captions, one in a line; empty lines are left out.

    Args:
        generator: The model, whose encoder must know every word.
        text: The lines.

    Raises:
        ValueError: if there are none, or the encoder refuses one.
    """
    captions = tuple(line.strip() for line in (text or "").splitlines() if line.strip())
    if not captions:
        raise ValueError("there are no captions yet; write one in a line, for each scene one")
    generator.encoder.encode(captions)
    return captions


def any_caption(generator: VideoGenerator) -> str:
    """Returns a caption that the model's encoder takes."""
    names = generator.encoder.record.names
    return names[0] if names else ANYTHING


def _example(generator: VideoGenerator) -> tuple[str, ...]:
    """Captions to start from; none where nothing is known of the captions of training."""
    record = generator.encoder.record
    if record.kind == "labels":
        return record.names[: generator.model.config.scenes.num_scenes]
    if record.kind != "words":
        return ()
    try:
        generator.encoder.encode(EXAMPLE)
    except ValueError:  # a model of something else than mazes
        return ()
    return EXAMPLE
