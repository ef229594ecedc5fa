"""Gradio without telemetry: the one place where it is imported."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # looked at while it is imported

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError as error:
    raise ImportError(
        f"the interactive page needs Gradio ({error}): pip install 'maskflow_jax[app]'"
    ) from error

__all__ = ["Middleware", "gr"]
