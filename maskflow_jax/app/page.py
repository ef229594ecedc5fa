"""The interactive page: what its parts do; `server` serves it."""

from collections.abc import Iterator
from typing import Any

from maskflow_jax.app import pictures
from maskflow_jax.app.actions import MISTAKES, Actions, Limits, Shown
from maskflow_jax.app.captions import first_entries
from maskflow_jax.app.fields import form_fields, shown_value
from maskflow_jax.app.models import Models
from maskflow_jax.app.parts import (
    STATE_KEPT,
    Results,
    Settings,
    first_choices,
    results_column,
    settings_column,
)
from maskflow_jax.app.sampling import Job
from maskflow_jax.app.toolkit import gr

TITLE = "MaskFlow: long video from masked tokens"
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}  # one generation at a time
QUICK = {"concurrency_limit": None, "show_progress": "hidden", "trigger_mode": "always_last"}
HIDDEN = {"api_visibility": "private"}


def build_page(models: Models, limits: Limits = Limits()) -> gr.Blocks:
    """Builds the page; the first model that is offered is loaded.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged.
    """
    first = models.get(models.offered[0])
    sampling = first.model.config.sampling
    fields = form_fields(sampling)
    cleaning = (STATE_KEPT // 6, STATE_KEPT)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=cleaning, fill_width=True
    ) as page:
        gr.Markdown(f"## {TITLE}")
        job = gr.State(None, time_to_live=STATE_KEPT)
        revealed = gr.State(None, time_to_live=STATE_KEPT)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                settings = settings_column(
                    models,
                    fields,
                    sampler=sampling.sampler.name,
                    length=2 * first.window,
                    captions=first_entries(first),
                )
            with gr.Column(scale=3, min_width=320):
                results = results_column()
        actions = Actions(models, fields, limits)
        _connect_choices(actions, settings)
        _connect_models(actions, settings)
        _connect_settings(page, actions, settings, results)
        _connect_generation(actions, settings, results, job)
        _connect_unmasking(actions, results, job, revealed)
    return page


def _connect_choices(actions: Actions, settings: Settings) -> None:
    """Shows the entries that belong to a choice, and reads uploads."""
    named = settings.named

    def chosen(source, sampler):
        return [
            gr.update(visible=source == "dataset"),
            *[gr.update(visible=source == "upload")] * 2,
            *(gr.update(visible=name == sampler) for name in settings.groups),
        ]

    def fitting_source(task, source):
        if task == "unconditional":
            return "none"
        return "dataset" if source == "none" else gr.skip()

    def fitting_task(task, source):
        if source == "none":
            return "unconditional"
        return "prediction" if task == "unconditional" else gr.skip()

    def upload(path, model):
        try:
            clip = actions.upload(path, model)
        except MISTAKES as error:
            gr.Warning(str(error))
            return None, None, pictures.problem(str(error))
        return clip, None, pictures.note(str(clip))

    shown = [settings.dataset, settings.upload, settings.clip_note, *settings.groups.values()]
    choices = [named["source"], named["sampler"]]
    for part in choices:
        part.change(chosen, choices, shown, **QUICK, **HIDDEN)
    # By hand only: one follows the other, not in circles.
    task, source = named["task"], named["source"]
    task.input(fitting_source, [task, source], source, **QUICK, **HIDDEN)
    source.input(fitting_task, [task, source], task, **QUICK, **HIDDEN)
    uploaded = [settings.clip, settings.upload, settings.clip_note]
    settings.upload.upload(upload, [settings.upload, named["model"]], uploaded, **HIDDEN)


def _connect_models(actions: Actions, settings: Settings) -> None:
    """Reads a model, and enters its own settings."""
    named = settings.named
    choices = [named["task"], named["source"]]
    said = [named[name] for name in ("captions", "frames_per_scene", "caption_guidance")]
    outputs = [named["sampler"], named["length"], settings.scenes, *said, *choices]
    # A list says that it has changed when it loses the focus, too.
    shown = gr.State(actions.models.offered[0], time_to_live=STATE_KEPT)
    outputs += [*settings.entries, shown]

    def model_chosen(model, before):
        if model == before:
            return [gr.skip()] * len(outputs)
        try:
            generator = actions.models.get(model)
            captions = first_entries(generator)
        except MISTAKES as error:
            gr.Warning(str(error))
            return [gr.skip()] * len(outputs)
        own = generator.model.config.sampling
        return [
            own.sampler.name,
            gr.update(value=2 * generator.window, visible=not captions.taken),
            gr.update(visible=captions.taken),
            gr.update(value=captions.captions, info=captions.info),
            captions.frames_per_scene,
            captions.guidance,
            *(first_choices(captions) if captions.taken else [gr.skip()] * 2),
            *(shown_value(field) for field in form_fields(own)),
            model,
        ]

    named["model"].change(model_chosen, [named["model"], shown], outputs, **HIDDEN)


def _connect_settings(
    page: gr.Blocks, actions: Actions, settings: Settings, results: Results
) -> None:
    """Shows the plan and the known frames of what is entered."""
    named = settings.named

    def plan(*given):
        return actions.plan_text(settings.values(given))

    def known_frames(*given):
        try:
            frames = actions.known_frames(settings.values(given))
        except MISTAKES:  # the plan, or the start, says why
            return gr.update(visible=False)
        there = len(frames) > 0
        return gr.update(value=pictures.strip(frames) if there else None, visible=there)

    def to_paint_on(*given):
        values = settings.values(given)
        if values["task"] != "inpaint":
            return gr.update(visible=False)
        try:
            frame = pictures.canvas(actions.known_frames(values)[0])
        except MISTAKES:
            return gr.update(visible=True, value=None)
        drawing = {"background": frame, "layers": [], "composite": None}
        return gr.update(visible=True, value=drawing)

    # The drawing itself, which is large, is sent with the start only.
    light = [settings.clip if part is named["drawing"] else part for part in settings.inputs]
    read = [part for part in settings.inputs if part is not named["drawing"]]
    gr.on([page.load, *(p.change for p in read)], plan, light, results.plan, **QUICK, **HIDDEN)
    frames = [named[name] for name in ("model", "task", "source", "split", "index", "clip")]
    lengths = [named[name] for name in ("length", "captions", "frames_per_scene")]
    triggers = [page.load, *(part.change for part in [*lengths, *frames])]
    gr.on(triggers, known_frames, light, settings.context, **QUICK, **HIDDEN)
    triggers = [part.change for part in frames]
    gr.on(triggers, to_paint_on, light, named["drawing"], **QUICK, **HIDDEN)


def _connect_generation(
    actions: Actions, settings: Settings, results: Results, job: gr.State
) -> None:
    """Generates and stops. What a click starts is kept apart from what is entered afterwards."""
    busy = [results.generate, results.stop]
    files = results.downloads

    def start(*given):
        try:
            started = actions.start(settings.values(given))
        except MISTAKES as error:
            gr.Warning(str(error))
            return None, pictures.problem(str(error)), gr.skip(), gr.skip()
        waiting = pictures.progress_bar(0, started.generation.nfe, "Waiting for the device")
        return started, waiting, gr.update(interactive=False), gr.update(interactive=True)

    def update(shown: Shown) -> dict[Any, Any]:
        changes = {results.status: shown.status}
        if shown.film is not None:
            changes[results.film] = shown.film
        if shown.files:
            changes[results.video] = shown.files["mp4"]
            changes[results.code] = shown.code
            for kind, button in files.items():
                path = shown.files.get(kind)
                changes[button] = gr.update(value=path, interactive=path is not None)
        return changes

    def run(started: Job | None) -> Iterator[dict[Any, Any]]:
        if started is None:
            yield {results.status: gr.skip()}
            return
        cleared = {button: gr.update(value=None, interactive=False) for button in files.values()}
        yield {results.video: None, results.code: "", **cleared}
        try:
            for shown in actions.run(started):
                yield update(shown)
        except MISTAKES as error:
            gr.Warning(str(error))
            yield {results.status: pictures.problem(str(error))}

    def stop(started: Job | None) -> None:
        if started is not None:
            started.stopped.set()

    outputs = [results.status, results.film, results.video, results.code, *files.values()]
    clicked = results.generate.click(
        start,
        settings.inputs,
        [job, results.status, *busy],
        concurrency_limit=None,
        show_progress="hidden",
        **HIDDEN,
    )
    made = clicked.then(run, job, outputs, show_progress="hidden", **DEVICE, **HIDDEN)
    ready = [gr.update(interactive=True), gr.update(interactive=False)]
    made.then(lambda: ready, None, busy, **QUICK, **HIDDEN)
    results.stop.click(stop, job, None, **QUICK, **HIDDEN)


def _connect_unmasking(
    actions: Actions, results: Results, job: gr.State, revealed: gr.State
) -> None:
    """Shows a window at every step."""

    def reveal(finished, window):
        try:
            found = actions.reveal(finished, window)
        except MISTAKES as error:
            gr.Warning(str(error))
            return None, gr.skip(), None
        half = found.num_steps // 2
        return found, gr.update(maximum=found.num_steps, value=half), found.picture(half)

    def draw(found, steps):
        return None if found is None else found.picture(int(steps))

    outputs = [revealed, results.steps, results.unmasking]
    results.reveal.click(reveal, [job, results.window], outputs, **DEVICE, **HIDDEN)
    inputs = [revealed, results.steps]
    results.steps.input(draw, inputs, results.unmasking, **QUICK, **HIDDEN)
