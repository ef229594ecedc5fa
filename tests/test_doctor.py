"""The doctor's text names what a bug report needs, and nothing private."""

import getpass
import platform
from pathlib import Path

import jax

from maskflow_jax import doctor


def test_what_a_report_needs_is_there(monkeypatch):
    monkeypatch.setitem(doctor.OPTIONAL, "no_such_module", "nothing")
    text = doctor.examine(generate=False)
    lines = text.splitlines()
    assert f"Python {platform.python_version()}" in lines[0]
    assert f"jax {jax.__version__}" in text and "MISSING" not in text
    assert "no_such_module no (extra nothing)" in text
    assert f"jax runs on {jax.device_count()} x " in text
    assert "attention in bfloat16: xla" in text
    assert "h264 reads and writes" in text
    assert "frames/s" not in text
    assert str(Path.home()) not in text
    assert f"/{getpass.getuser()}/" not in text


def test_the_shipped_model_is_tried():
    text = doctor.examine(seconds=0.5)
    assert "the model `maze` made " in text.splitlines()[-1]
    assert " 0 frames at" not in text
