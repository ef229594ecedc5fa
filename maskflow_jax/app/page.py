"""The interactive page: what its parts do, and serving it."""

import dataclasses
import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import logging

from maskflow_jax.app import pictures
from maskflow_jax.app.actions import MISTAKES, Actions, Limits, Shown
from maskflow_jax.app.fields import form_fields, shown_value
from maskflow_jax.app.models import Models
from maskflow_jax.app.parts import STATE_KEPT, Results, Settings, results_column, settings_column
from maskflow_jax.app.sampling import Job
from maskflow_jax.app.toolkit import Middleware, gr

TITLE = "MaskFlow: long video from masked tokens"
CSS = """
.progress progress {width: 100%; height: 1rem}
.problem {border-left: 4px solid #c0392b; padding: .4rem .8rem; background: #c0392b22}
.note {padding: .4rem 0}
.pixels img, .pixels video {image-rendering: pixelated}
"""
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# Nothing is fetched but from the server of the page, whatever Gradio's own page names.
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}  # one generation at a time
QUICK = {"concurrency_limit": None, "show_progress": "hidden", "trigger_mode": "always_last"}
QUEUE = 20  # visitors that wait; more are told to come back
HIDDEN = {"api_visibility": "private"}


class OwnContentOnly:
    """Middleware that tells browsers to fetch nothing from anywhere else."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers as the page does, with one more header."""

        async def with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY)
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self._app(scope, receive, with_policy)


def build_page(models: Models, limits: Limits = Limits()) -> gr.Blocks:
    """Builds the page; the first model that is offered is loaded.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged, or takes captions.
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
                    models, fields, sampler=sampling.sampler.name, length=2 * first.window
                )
            with gr.Column(scale=3, min_width=320):
                results = results_column()
        actions = Actions(models, fields, limits)
        _connect_choices(actions, settings)
        _connect_settings(page, actions, settings, results)
        _connect_generation(actions, settings, results, job)
        _connect_unmasking(actions, results, job, revealed)
    return page


def _connect_choices(actions: Actions, settings: Settings) -> None:
    """Shows the entries that belong to a choice, and reads models and uploads."""
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

    def model_chosen(model):
        try:
            generator = actions.models.get(model)
        except MISTAKES as error:
            gr.Warning(str(error))
            return [gr.skip()] * (2 + len(settings.entries))
        own = generator.model.config.sampling
        values = [shown_value(field) for field in form_fields(own)]
        return [own.sampler.name, 2 * generator.window, *values]

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
    defaults = [named["sampler"], named["length"], *settings.entries]
    named["model"].change(model_chosen, named["model"], defaults, **HIDDEN)
    uploaded = [settings.clip, settings.upload, settings.clip_note]
    settings.upload.upload(upload, [settings.upload, named["model"]], uploaded, **HIDDEN)


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
    triggers = [page.load, named["length"].change, *(part.change for part in frames)]
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


@dataclasses.dataclass(kw_only=True)
class Served:
    """A page that is being served.

    Attributes:
        page: The page.
        address: Where browsers find it.
        files: Folder of uploads and results, which is deleted in the end.
    """

    page: gr.Blocks
    address: str
    files: tempfile.TemporaryDirectory

    def wait(self) -> None:
        """Serves until the process is interrupted or terminated, then ends."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.page.block_thread()
        self.close()

    def close(self) -> None:
        """Ends, and deletes all files."""
        self.page.close(verbose=False)
        self.files.cleanup()


def serve(
    models: Models,
    limits: Limits = Limits(),
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Served:
    """Serves the page in the background; one page in a process, as its files have one folder.

    Args:
        models: The models.
        limits: What one visitor may ask for.
        host: Address to listen at; the default is reached from this machine only.
        port: Port; None for the first free one from 7860 on.

    Raises:
        OSError: if the port is taken.
    """
    files = tempfile.TemporaryDirectory(prefix="maskflow-page-")
    os.environ["GRADIO_TEMP_DIR"] = files.name
    page = build_page(models, limits)
    page.queue(max_size=QUEUE, default_concurrency_limit=None)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size=int(limits.upload.megabytes * 1e6),
            app_kwargs={"middleware": [Middleware(OwnContentOnly)]},
            theme=gr.themes.Default(**FONTS),
            css=CSS,
        )
    except OSError as error:
        files.cleanup()
        raise OSError(f"port {port} of {host} is taken; choose another one") from error
    logging.info("the page is at %s", address)
    return Served(page=page, address=address, files=files)
