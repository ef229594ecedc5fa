"""The interactive page: its parts, and where they stand. `actions` says what they do."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from maskflow_jax.app import pictures
from maskflow_jax.app.actions import Actions
from maskflow_jax.app.fields import Field, form_fields
from maskflow_jax.app.models import Models
from maskflow_jax.app.request import SOURCES
from maskflow_jax.app.uploads import TYPES
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.tasks import TASKS

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
import gradio as gr  # noqa: E402

TITLE = "MaskFlow: long video from masked tokens"
CSS = """
.progress progress {width: 100%; height: 1rem}
.problem {border-left: 4px solid #c0392b; padding: .4rem .8rem; background: #c0392b22}
.note {padding: .4rem 0}
.pixels img, .pixels video {image-rendering: pixelated}
.narrow {max-height: 24rem; overflow: auto}
"""
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}  # one generation at a time
QUICK = {"concurrency_limit": None, "show_progress": "hidden"}
KEPT = 3600  # seconds that files of results, and the state of a closed page, are kept
WAITING = 20  # visitors in the queue; more are asked to come back


@dataclasses.dataclass(kw_only=True)
class Parts:
    """The parts of the page that something is read from or written to."""

    model: Any
    task: Any
    source: Any
    split: Any
    index: Any
    upload: Any
    drawing: Any
    length: Any
    seed: Any
    sampler: Any
    fields: list[Field]
    entries: list[Any]
    groups: dict[str, Any]


def build_page(models: Models, actions: Actions) -> gr.Blocks:
    """Builds the page.

    Args:
        models: The models; the first one that is offered is loaded, its settings are shown.
        actions: What the parts do.

    Raises:
        ValueError: if the first model cannot be loaded, as FileNotFoundError.
    """
    first = models.get(models.offered[0])
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(KEPT // 6, KEPT), fill_width=True
    ) as page:
        gr.Markdown(f"# {TITLE}")
        clip = gr.State(None, time_to_live=KEPT)
        job = gr.State(None, time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                parts = _settings(models, first.model.config.sampling, 2 * first.window)
            with gr.Column(scale=3, min_width=320):
                results = _results()
        _connect(page, actions, parts, results, {"clip": clip, "job": job})
    return page


def _settings(models: Models, sampling: Any, length: int) -> Parts:
    """The left column: what is asked for."""
    model = gr.Dropdown(
        models.offered,
        value=models.offered[0],
        label="Model",
        info="A run, an exported model, or a shipped name." if models.any_path else None,
        allow_custom_value=models.any_path,
        elem_id="model",
    )
    task = gr.Radio(list(TASKS), value="prediction", label="Task", elem_id="task")
    with gr.Row():
        source = gr.Radio(list(SOURCES), value="dataset", label="Context", elem_id="source")
        with gr.Column(min_width=160) as dataset:
            split = gr.Radio(["test", "train"], value="test", label="Split")
            index = gr.Number(0, precision=0, minimum=0, label="Video", elem_id="index")
    upload = gr.File(
        label=f"Video or image ({', '.join(TYPES)})",
        file_types=list(TYPES),
        visible=False,
        height=140,
        elem_id="upload",
    )
    context = gr.Image(
        label="Known frames", interactive=False, format="png", elem_classes="pixels", buttons=[]
    )
    drawing = gr.ImageEditor(
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
    with gr.Row():
        length_part = gr.Number(length, precision=0, minimum=1, label="Frames", elem_id="length")
        seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed", elem_id="seed")
    sampler = gr.Dropdown(
        list(SAMPLERS), value=sampling.sampler.name, label="Sampler", elem_id="sampler"
    )
    fields, entries, groups = form_fields(sampling), [], {}
    for name in SAMPLERS:
        with gr.Group(visible=name == sampling.sampler.name) as groups[name]:
            entries += _entries([field for field in fields if field.section == name])
    with gr.Accordion("Windows, decoding, guidance", open=False):
        entries += _entries([field for field in fields if field.section not in SAMPLERS])
    parts = Parts(
        model=model,
        task=task,
        source=source,
        split=split,
        index=index,
        upload=upload,
        drawing=drawing,
        length=length_part,
        seed=seed,
        sampler=sampler,
        fields=fields,
        entries=entries,
        groups=groups,
    )
    parts.context, parts.dataset = context, dataset
    return parts


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
        return gr.Dropdown(list(field.choices), value=field.default, **text)
    if field.optional:
        text["placeholder"] = "empty: None"
    precision = 0 if field.kind == "whole" else None
    return gr.Number(field.default, precision=precision, min_width=140, **text)
