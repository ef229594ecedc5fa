"""What a machine has and whether generating works on it, as text for a bug report."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata, util

import av
import jax

from maskflow_jax.generator import VideoGenerator
from maskflow_jax.models import attention
from maskflow_jax.sampling.samplers import MGM

PACKAGES = (
    "maskflow_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
    "av",
    "clu",
    "ml_collections",
)
# What an optional part of the package imports, and the extra of it.
OPTIONAL = {
    "vizdoom": "maze",
    "tensorflow": "tensorboard",
    "torch": "torch",
    "transformers": "text",
    "h5py": "hdf5",
    "skimage": "report",
    "matplotlib": "report",
    "apache_beam": "beam",
    "gradio": "app",
}
CODECS = ("h264", "hevc", "vp9", "av1")
SECONDS = 5.0  # of generating


def examine(*, generate: bool = True, seconds: float = SECONDS) -> str:
    """Describes this machine and tries the shipped model.

    Args:
        generate: Whether to generate with the shipped model, which compiles a program first.
        seconds: Time after which generating is stopped.

    Returns:
        Lines of text, without names of files or users.
    """
    lines = [*_versions(), *_devices(), *_codecs()]
    if generate:
        lines.append(_generated(seconds))
    return "\n".join(lines) + "\n"


def _versions() -> Iterator[str]:
    yield f"Python {sys.version.split()[0]} on {platform.system()} {platform.machine()}"
    yield "packages: " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    extras = (
        f"{name} {'yes' if util.find_spec(name) else f'no (extra {extra})'}"
        for name, extra in OPTIONAL.items()
    )
    yield "optional: " + ", ".join(extras)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "MISSING"


def _devices() -> Iterator[str]:
    kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    yield f"jax runs on {jax.device_count()} x {kinds} ({jax.default_backend()})"
    statistics = jax.local_devices()[0].memory_stats() or {}
    if limit := statistics.get("bytes_limit"):
        used = statistics.get("bytes_in_use", 0)
        yield f"device memory: {used / 1e9:.1f} of {limit / 1e9:.1f} GB in use"
    yield f"host: {os.cpu_count()} processors, {_host_memory()}"
    shape, dtype = (64, 16, 16, 72), "bfloat16"  # XL/2's temporal attention
    yield f"attention in bfloat16: {attention.probe(shape, 16, dtype, False)}"
    cache = jax.config.jax_compilation_cache_dir
    yield f"compiled programs are {'kept' if cache else 'not kept'} between processes"


def _host_memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return "memory unknown"
    return f"{total / 1e9:.0f} GB of memory, {shutil.disk_usage('.').free / 1e9:.0f} GB free here"


def _codecs() -> Iterator[str]:
    found = ", ".join(f"{name} {_directions(name)}" for name in CODECS)
    yield f"PyAV with FFmpeg {av.ffmpeg_version_info}: {found}"


def _directions(codec: str) -> str:
    able = []
    for mode, word in (("r", "reads"), ("w", "writes")):
        try:
            av.Codec(codec, mode)
        except av.codec.codec.UnknownCodecError:
            continue
        able.append(word)
    return " and ".join(able) or "missing"


def _generated(seconds: float) -> str:
    """Streams from the shipped model for some seconds."""
    generator = VideoGenerator.load("maze")
    sampler = MGM(num_steps=8, noise="random", independent_time=None)
    started = time.monotonic()
    chunks = generator.stream(sampler=sampler, context_frames=12, stride=4)
    next(chunks)  # compiles
    compiled, frames = time.monotonic(), 0
    while time.monotonic() - compiled < seconds:
        frames += next(chunks).shape[1]
    rate = frames / (time.monotonic() - compiled)
    return (
        f"generate: the model `maze` made {frames} frames at {rate:.1f} frames/s, after "
        f"{compiled - started:.1f} s of loading and compiling"
    )
