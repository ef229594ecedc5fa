"""Serves the interactive page: generate from a model in a browser.

    python -m launch.app                                  # the shipped models
    python -m launch.app --models=runs/maze,exports/best --port=8000

and open the address that is printed. The page is reached from this machine only, unless `--host`
says otherwise (0.0.0.0 for all networks); then only the models that `--models` names can be chosen.
Visitors queue; uploaded files are read and deleted at once.
"""

from absl import flags

from launch import cli, places
from launch.startup import start

_MODELS = flags.DEFINE_list("models", None, "Runs, exported models, names; default: all shipped.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen at.")
_PORT = flags.DEFINE_integer("port", None, "Port; the first free one from 7860 on by default.")
_FRAMES = flags.DEFINE_integer("max_frames", 1000, "Frames of a video at most.", lower_bound=1)
_NFE = flags.DEFINE_integer("max_nfe", 20_000, "Network evaluations at most.", lower_bound=1)
_UPLOAD = flags.DEFINE_float("max_upload_mb", 20.0, "Size of an upload at most.", lower_bound=0.1)

LOCAL = ("127.0.0.1", "localhost", "::1")


def main(_) -> None:
    """Serves until it is interrupted."""
    start()
    from maskflow_jax.app.actions import Limits
    from maskflow_jax.app.models import Models, shipped_names
    from maskflow_jax.app.server import serve
    from maskflow_jax.app.uploads import UploadLimits

    models = Models(
        _MODELS.value or shipped_names(),
        any_path=_HOST.value in LOCAL,
        places={name: place for name, place in places.moved().items() if place},
    )
    limits = Limits(
        frames=_FRAMES.value,
        evaluations=_NFE.value,
        upload=UploadLimits(megabytes=_UPLOAD.value),
    )
    serve(models, limits, host=_HOST.value, port=_PORT.value).wait()


if __name__ == "__main__":
    cli.run(main)
