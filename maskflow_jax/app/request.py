"""What a visitor asks for: checked, planned, and written as Python that makes the same video."""

import base64
import dataclasses
import json
import textwrap
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskflow_jax.config import SamplingConfig
from maskflow_jax.generation.request import Generation
from maskflow_jax.generator import VideoGenerator

SOURCES = ("dataset", "upload", "none")
MAX_EMBEDDED = 60_000  # characters of a context within the code
_LINE = 88  # characters of a line of data in the code


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A video that is asked for.

    Attributes:
        model: Path or name of the model.
        task: A key of `sampling.tasks.TASKS`.
        length: Number of frames.
        seed: Seed.
        sampling: The sampler and what is around it.
        source: Where the known frames are from, one of `SOURCES`.
        split: Split of the dataset.
        index: Number of the dataset's video.
        clip: Uploaded frames at the model's rate, uint8 [F, S, S, 3].
        mask: For "inpaint": what is to be made of every frame, bool [h, w] in tokens.
        captions: A caption for each scene; none for models that take no captions.
        frames_per_scene: Number of frames of a scene; `length` is that of all scenes together.
    """

    model: str
    task: str
    length: int
    seed: int
    sampling: SamplingConfig
    source: str = "dataset"
    split: str = "test"
    index: int = 0
    clip: np.ndarray | None = None
    mask: np.ndarray | None = None
    captions: tuple[str, ...] = ()
    frames_per_scene: int | None = None

    def __post_init__(self):
        if self.source == "none" and self.task != "unconditional":
            raise ValueError(
                f"the task {self.task!r} continues given frames; choose a context, or the task "
                "'unconditional'"
            )
        if self.source == "upload" and self.task != "unconditional" and self.clip is None:
            raise ValueError("no file is uploaded yet; upload a video or an image")
        if self.task == "inpaint" and (self.mask is None or not self.mask.any()):
            raise ValueError("nothing is painted yet; paint over what is to be made anew")

    @property
    def options(self) -> dict[str, Any]:
        """The options of `VideoGenerator.plan` and `generate`."""
        options = dict(vars(self.sampling))
        if self.task == "inpaint":
            options["known"] = np.broadcast_to(~self.mask, (self.length, *self.mask.shape))
        if self.captions:
            options["captions"] = self.captions
            options["frames_per_scene"] = self.frames_per_scene
        return options


def plan(generator: VideoGenerator, request: Request) -> Generation:
    """Plans a request; ValueError if there is no such video."""
    try:
        return generator.plan(request.length, task=request.task, **request.options)
    except ValueError as error:
        if not request.captions:
            raise
        scenes = f"{len(request.captions)} captions, {request.frames_per_scene} frames per scene"
        raise ValueError(f"{scenes}: {error}") from error


def read_known_frames(
    generator: VideoGenerator, request: Request, generation: Generation
) -> np.ndarray:
    """Reads the real tokens that a planned request takes.

    Returns:
        int32 [1, source_frames, h, w].

    Raises:
        ValueError: if the dataset has no such video, or the video is too short.
    """
    frames = generation.task.source_frames
    if not frames:
        return generator.read_context(frames=0)
    if request.source == "upload":
        backward = generation.task.backward
        return generator.read_context(request.clip, frames=frames, from_start=backward)
    return generator.read_context(frames=frames, split=request.split, indices=[request.index])


def python_code(
    generator: VideoGenerator,
    request: Request,
    real: np.ndarray,
    *,
    places: Mapping[str, str] | None = None,
    digest: str = "",
) -> str:
    """Writes the program that makes the video of a request, token for token.

    Frames of the dataset are read from there. Uploaded ones are not kept, so their tokens are in
    the code; those of long videos are taken from the file of tokens that belongs to the video.

    Args:
        generator: The model.
        request: The request.
        real: The real tokens that it takes, int32 [1, F, h, w].
        places: Further arguments of `VideoGenerator.load`.
        digest: SHA-256 of the tokens of the video, which the program then compares.
    """
    arguments = _arguments(request, generator.model.config.sampling)
    context, imports = _context_lines(request, real)
    mask = []
    if request.task == "inpaint":
        mask, imports = _mask_lines(request), imports | {"import numpy as np"}
        arguments.append("known=known")
    load = [_written(request.model)]
    load += [f"{name}={_written(value)}" for name, value in (places or {}).items()]
    standard = {name for name in imports if "numpy" not in name}
    standard |= {"import hashlib"} if digest else set()
    lines = [*sorted(standard), "" if standard else None]
    lines += [*sorted(imports - standard), "" if imports - standard else None]
    lines += ["import maskflow_jax as mf", ""]
    lines += [f"generator = mf.VideoGenerator.load({', '.join(load)})", *context, *mask]
    lines += ["videos = generator.generate(", "    context,"]
    lines += [*(f"    {argument}," for argument in arguments), ")"]
    if digest:
        lines += [
            "# The same tokens on the same kind of device with the same versions.",
            "made = hashlib.sha256(videos.tokens.tobytes()).hexdigest()",
            f'print("the same video:", made == "{digest}")',
        ]
    lines.append('videos.save("samples")')
    return "\n".join(line for line in lines if line is not None) + "\n"


def _arguments(request: Request, default: SamplingConfig) -> list[str]:
    """The arguments that say what is asked for; `default` has the model's own settings."""
    arguments = [f"length={request.length}"]
    if request.captions:  # which say how long the video is
        lines = "".join(f"        {_written(caption)},\n" for caption in request.captions)
        arguments = [f"captions=[\n{lines}    ]", f"frames_per_scene={request.frames_per_scene}"]
    arguments += [f"seed={request.seed}", f"task={_written(request.task)}"]
    for field in dataclasses.fields(SamplingConfig):
        value, own = getattr(request.sampling, field.name), getattr(default, field.name)
        if field.name == "guidance" and value == dataclasses.replace(own, captions=value.captions):
            value, own = value.captions, own.captions  # a number stands for the weight of captions
        if field.name == "sampler" or value != own:
            arguments.append(f"{field.name}={_written(value)}")
    return arguments


def _written(value: Any) -> str:
    """A value as Python; a dataclass with all its settings, a line for each."""
    if isinstance(value, str):
        return json.dumps(value)
    if not dataclasses.is_dataclass(value):
        return repr(value)
    settings = [
        f"{field.name}={_written(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
    ]
    lines = "".join(f"        {setting},\n" for setting in settings)
    return f"mf.{type(value).__name__}(\n{lines}    )"


def _context_lines(request: Request, real: np.ndarray) -> tuple[list[str], set[str]]:
    """The lines that make `context`, and what they import."""
    frames = real.shape[1]
    if not frames:
        return ["context = None"], set()
    if request.source == "dataset":
        where = f"frames={frames}, split={_written(request.split)}, indices=[{request.index}]"
        return [f"context = generator.read_context({where})"], set()
    kind = np.uint16 if real.max() < 2**16 else np.int32
    packed = base64.b85encode(zlib.compress(real.astype(kind).tobytes(), 9)).decode()
    if len(packed) > MAX_EMBEDDED:
        where = f"-{frames}:" if request.task == "backward" else f":{frames}"
        file = "sample_00000.npz"
        return [
            f"# The file of tokens that was downloaded with the video.\n"
            f'context = np.load("{file}")["tokens"][None, {where}]'
        ], {"import numpy as np"}
    return [
        f"# Tokens of the uploaded frames, {list(real.shape)}.",
        "packed = (",
        *(f"    {part!r}" for part in textwrap.wrap(packed, _LINE)),
        ")",
        f"context = np.frombuffer(zlib.decompress(base64.b85decode(packed)), np.{kind.__name__})",
        f"context = context.astype(np.int32).reshape({real.shape})",
    ], {"import base64", "import zlib", "import numpy as np"}


def _mask_lines(request: Request) -> list[str]:
    """The lines that make `known`: a picture of what is painted."""
    rows = ["".join("#" if token else "." for token in row) for row in request.mask]
    return [
        "painted = [  # of every frame, in tokens; # is made anew",
        *(f'    "{row}",' for row in rows),
        "]",
        'known = np.array([[token == "." for token in row] for row in painted])',
        f"known = np.broadcast_to(known, ({request.length}, *known.shape))",
    ]
