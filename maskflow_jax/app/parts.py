"""The parts of the page and where they stand; `page` says what they do."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from maskflow_jax.app import pictures
from maskflow_jax.app.captions import CaptionEntries
from maskflow_jax.app.fields import Field, shown_value
from maskflow_jax.app.models import Models
from maskflow_jax.app.request import SOURCES
from maskflow_jax.app.toolkit import gr
from maskflow_jax.app.uploads import TYPES
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.tasks import TASKS

STATE_KEPT = 3600  # seconds that what belongs to a closed page is kept


@dataclasses.dataclass(kw_only=True)
class Settings:
    """What is asked for: the entries that are read, and what shows or hides them.

    Attributes:
        named: The parts that are read, by the names that `Actions.request` knows.
        entries: A part for each field of the form.
        groups: The entries of each sampler.
        scenes: The entries for captions.
        dataset: The entries that choose a video of the dataset.
        upload: Where a file is dropped.
        clip_note: What was uploaded.
        context: Picture of the known frames.
        clip: The uploaded frames of this visitor.
    """

    named: dict[str, Any]
    entries: list[Any]
    groups: dict[str, Any]
    scenes: Any
    dataset: Any
    upload: Any
    clip_note: Any
    context: Any
    clip: Any

    @property
    def inputs(self) -> list[Any]:
        """All that is read, in the order of `values`."""
        return [*self.named.values(), *self.entries]

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Names what was read."""
        named = dict(zip(self.named, given, strict=False))
        return {**named, "entries": list(given[len(self.named) :])}


@dataclasses.dataclass(kw_only=True)
class Results:
    """What comes out.

    Attributes:
        plan: What a video will cost.
        generate: Starts it.
        stop: Stops it.
        status: The progress.
        film: The frames so far.
        video: The finished video.
        downloads: Buttons by kind of file.
        code: The program that makes the video.
        reveal: Shows how a window was unmasked.
        window: Number of that window.
        steps: Slider over its steps.
        unmasking: Its picture.
    """

    plan: Any
    generate: Any
    stop: Any
    status: Any
    film: Any
    video: Any
    downloads: dict[str, Any]
    code: Any
    reveal: Any
    window: Any
    steps: Any
    unmasking: Any


def settings_column(
    models: Models,
    fields: Sequence[Field],
    *,
    sampler: str,
    length: int,
    captions: CaptionEntries,
) -> Settings:
    """Lays out what is asked for.

    Args:
        models: The models that are offered.
        fields: The fields of the form.
        sampler: Name of the sampler that is chosen first.
        length: Number of frames that is there first.
        captions: What the entries for captions hold first.
    """
    clip = gr.State(None, time_to_live=STATE_KEPT)
    task, source = first_choices(captions)
    named = {"model": _model(models)}
    with gr.Group(visible=captions.taken, elem_id="scenes") as scenes:
        named |= _captions(captions)
    named["task"] = gr.Radio(list(TASKS), value=task, label="Task", elem_id="task")
    named["source"] = gr.Radio(list(SOURCES), value=source, label="Context", elem_id="source")
    with gr.Row(visible=source == "dataset") as dataset:
        named["split"] = gr.Radio(["test", "train"], value="test", label="Split", elem_id="split")
        named["index"] = gr.Number(0, precision=0, minimum=0, label="Video", elem_id="index")
    upload = gr.File(
        label="Video or image",
        file_types=list(TYPES),
        visible=False,
        height=140,
        elem_id="upload",
    )
    clip_note = gr.HTML(elem_id="clip_note")
    gr.Markdown("Known frames")
    context = gr.Image(
        label="Known frames",
        show_label=False,
        interactive=False,
        format="png",
        elem_id="context",
        elem_classes="pixels",
        buttons=[],
    )
    named["drawing"] = _drawing()
    named["clip"] = clip
    with gr.Row():
        named["length"] = _whole(length, "Frames", "length", visible=not captions.taken)
        named["seed"] = _whole(0, "Seed", "seed")
    named["sampler"] = gr.Dropdown(
        list(SAMPLERS), value=sampler, label="Sampler", elem_id="sampler", filterable=False
    )
    entries, groups = _form(fields, sampler)
    return Settings(
        named=named,
        entries=entries,
        groups=groups,
        scenes=scenes,
        dataset=dataset,
        upload=upload,
        clip_note=clip_note,
        context=context,
        clip=clip,
    )


def results_column() -> Results:
    """Lays out what comes out."""
    plan = gr.HTML(elem_id="plan")
    with gr.Row():
        generate = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop")
    status = gr.HTML(elem_id="status", min_height=60)
    gr.Markdown("Frames so far; those that were given have a magenta border")
    film = gr.Image(
        label="Frames so far",
        show_label=False,
        interactive=False,
        format="png",
        elem_id="film",
        elem_classes="pixels",
        buttons=["fullscreen"],
    )
    video = gr.Video(
        label="Video",
        show_label=False,
        interactive=False,
        autoplay=True,
        loop=True,
        height=320,
        elem_id="video",
        elem_classes="pixels",
        buttons=[],
    )
    with gr.Row():
        downloads = {
            kind: gr.DownloadButton(label, interactive=False, size="sm", elem_id=f"get-{kind}")
            for kind, label in (("mp4", "mp4"), ("gif", "GIF"), ("npz", "Tokens (npz)"))
        }
    code = gr.Code(
        label="The same video in Python",
        language="python",
        interactive=False,
        max_lines=18,
        buttons=["copy"],
        elem_id="code",
    )
    with gr.Accordion("How a window was unmasked", open=True, elem_id="unmasking"):
        with gr.Row():
            window = gr.Number(0, precision=0, minimum=0, label="Window", elem_id="window")
            reveal = gr.Button("Show", size="sm", elem_id="reveal")
        steps = gr.Slider(0, 1, value=0, step=1, label="Steps taken", elem_id="steps")
        gr.Markdown("Masked tokens are grey")
        unmasking = gr.Image(
            label="Window",
            show_label=False,
            interactive=False,
            format="png",
            elem_id="unmasked",
            elem_classes="pixels",
            buttons=["fullscreen"],
        )
    return Results(
        plan=plan,
        generate=generate,
        stop=stop,
        status=status,
        film=film,
        video=video,
        downloads=downloads,
        code=code,
        reveal=reveal,
        window=window,
        steps=steps,
        unmasking=unmasking,
    )


def _model(models: Models) -> Any:
    return gr.Dropdown(
        models.offered,
        value=models.offered[0],
        label="Model",
        info="A run, an exported model, or a shipped name." if models.any_path else None,
        allow_custom_value=models.any_path,
        elem_id="model",
    )


def first_choices(captions: CaptionEntries) -> tuple[str, str]:
    """Task and context that are chosen first: captions need no context."""
    return ("unconditional", "none") if captions.taken else ("prediction", "dataset")


def _captions(entries: CaptionEntries) -> dict[str, Any]:
    """The entries for captions."""
    text = gr.Textbox(
        entries.captions,
        label="Captions",
        info=entries.info,
        lines=4,
        max_lines=12,
        elem_id="captions",
    )
    with gr.Row():
        frames = _whole(entries.frames_per_scene, "Frames per scene", "frames_per_scene")
        guidance = gr.Number(
            entries.guidance,
            label="Caption guidance",
            info="1: none. Other weights take twice the evaluations.",
            elem_id="caption_guidance",
            min_width=140,
        )
    return {"captions": text, "frames_per_scene": frames, "caption_guidance": guidance}


def _whole(value: int, label: str, name: str, *, visible: bool = True) -> Any:
    """An entry for a whole number; `Actions` says which are too small."""
    sizes = {"precision": 0, "minimum": 0, "min_width": 140}
    return gr.Number(value, label=label, elem_id=name, visible=visible, **sizes)


def _drawing() -> Any:
    """A frame to paint on."""
    return gr.ImageEditor(
        label="Paint over what is to be made anew",
        visible=False,
        sources=[],
        transforms=[],
        layers=False,
        canvas_size=(pictures.EDITOR_SIDE, pictures.EDITOR_SIDE),
        fixed_canvas=True,
        brush=gr.Brush(default_size=40, colors=["#ff00c8"], color_mode="fixed"),
        format="png",
        buttons=[],
        elem_id="drawing",
    )


def _form(fields: Sequence[Field], sampler: str) -> tuple[list[Any], dict[str, Any]]:
    """A part for each field, and the groups of the samplers."""
    entries, groups = [], {}
    for name in SAMPLERS:
        with gr.Group(visible=name == sampler) as groups[name]:
            entries += _entries([field for field in fields if field.section == name])
    with gr.Accordion("Windows, decoding, guidance", open=False):
        entries += _entries([field for field in fields if field.section not in SAMPLERS])
    return entries, groups


def _entries(fields: Sequence[Field]) -> list[Any]:
    """A part for each field, two in a row."""
    entries = []
    for start in range(0, len(fields), 2):
        with gr.Row():
            entries += [_entry(field) for field in fields[start : start + 2]]
    return entries


def _entry(field: Field) -> Any:
    text = {"label": field.name, "info": field.info, "elem_id": f"{field.section}-{field.name}"}
    if field.kind == "switch":
        return gr.Checkbox(field.default, **text)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=field.default, filterable=False, **text)
    if field.optional:  # as text, because an empty number comes back as 0
        value = shown_value(field)
        return gr.Textbox(value, placeholder="empty: None", max_lines=1, min_width=140, **text)
    precision = 0 if field.kind == "whole" else None
    return gr.Number(field.default, precision=precision, min_width=140, **text)
