"""Where something comes from: the command of this process, and versions of packages."""

import shlex
import sys
from collections.abc import Iterable
from importlib import metadata

PACKAGES = ("maskflow_jax", "jax", "jaxlib", "flax", "numpy")


def command_line() -> str:
    """The command that started this process, as it can be given to a shell again."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def package_versions(names: Iterable[str] = PACKAGES) -> str:
    """Versions of installed packages and of Python, in one line."""
    versions = [f"{name} {metadata.version(name)}" for name in names]
    return ", ".join([*versions, f"Python {sys.version.split()[0]}"])


def markdown_table(heading: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of two columns in markdown.

    Args:
        heading: Heading of the first column.
        rows: The rows. Bars and line ends in them are escaped.
    """
    lines = [f"| {heading} | |", "|---|---|"]
    for row in rows:
        cells = (" ".join(str(cell).split()).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
