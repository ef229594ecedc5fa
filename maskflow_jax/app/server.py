"""Serving the interactive page."""

import dataclasses
import os
import signal
import tempfile
from typing import Any

from absl import logging

from maskflow_jax.app.actions import Limits
from maskflow_jax.app.models import Models
from maskflow_jax.app.page import build_page
from maskflow_jax.app.toolkit import Middleware, gr

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
QUEUE = 20  # visitors that wait; more are told to come back


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
