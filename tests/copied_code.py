"""Runs the Python that the interactive page offers to copy."""

import contextlib
import io


def rerun(code, folder, monkeypatch):
    """Runs copied code in a folder and returns its videos, which must be the same."""
    monkeypatch.chdir(folder)
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "copied.py", "exec"), names)
    assert "the same video: True" in said.getvalue()
    return names["videos"]
