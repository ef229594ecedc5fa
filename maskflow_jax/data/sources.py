"""The sources of videos by name. A new one is a file like `video_folder` and a row here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maskflow_jax.data.dmlab import DMLab
from maskflow_jax.data.faceforensics import FaceForensics
from maskflow_jax.data.image_sequence import ImageSequence
from maskflow_jax.data.numpy_arrays import NumpyArrays
from maskflow_jax.data.ucf101 import UCF101
from maskflow_jax.data.video_folder import VideoFolder

SOURCES = {
    "dmlab": DMLab,
    "faceforensics": FaceForensics,
    "image_sequence": ImageSequence,
    "numpy_arrays": NumpyArrays,
    "ucf101": UCF101,
    "video_folder": VideoFolder,
}


def make_source(name: str, settings: Mapping[str, Any]) -> Any:
    """Makes a source.

    Args:
        name: of `SOURCES`, or "tfds_videos".
        settings: its fields; those that are None are left to their defaults.

    Raises:
        ValueError: for an unknown name or field, or a missing one.
    """
    kinds = dict(SOURCES)
    if name == "tfds_videos":  # TFDS is slow to import, in every decoding process
        from maskflow_jax.data.tfds_videos import TFDSVideos

        kinds[name] = TFDSVideos
    if name not in kinds:
        raise ValueError(f"unknown source {name!r}: choose from {', '.join(SOURCES)}, tfds_videos")
    settings = {field: value for field, value in settings.items() if value is not None}
    fields = {field.name: field for field in dataclasses.fields(kinds[name])}
    if unknown := settings.keys() - fields.keys():
        raise ValueError(
            f"source {name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(fields)}"
        )
    missing = [
        field
        for field, of in fields.items()
        if of.default is dataclasses.MISSING and field not in settings
    ]
    if missing:
        raise ValueError(f"source {name} needs {', '.join(missing)}: its files do not tell")
    return kinds[name](**settings)
