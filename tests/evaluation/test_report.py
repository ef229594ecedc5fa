"""Tables and curves of receipts."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from maskflow_jax.evaluation import receipts, report
from maskflow_jax.evaluation.receipts import Metric

pytest.importorskip("matplotlib")


def made(shift, seeds=(0, 1)):
    metrics = [
        Metric(name="unigram", draws=(1.0 + shift, 2.0 + shift), n=8, floor=0.5, floor_n=4),
        *(Metric(name=f"unigram.window_{i:02d}", draws=(i + shift, i + 1.0), n=8) for i in (1, 2)),
    ]
    settings = {"seeds": seeds, "protocol": None}
    return receipts.make_receipt({"settings": settings}, metrics)


def test_a_table_of_receipts(tmp_path):
    found = {"mgm": made(0.0), "fm": made(1.0)}
    table = report.write_table(found, tmp_path / "table")
    lines = table.splitlines()
    assert lines[0] == "| | mgm | fm | real against real |"
    assert lines[2] == "| unigram | 1.5 ± 0.71 | 2.5 ± 0.71 | 0.5 |"
    assert "window" not in table
    assert "over seeds [0, 1], 8 videos each" in table
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert len(rows) == 6
    assert rows[3] == {
        **{"receipt": "fm", "protocol": "", "metric": "unigram", "mean": "2.5"},
        **{"std": rows[3]["std"], "draws": "2", "n": "8", "floor": "0.5"},
    }
    picture = np.asarray(Image.open(tmp_path / "table.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    with pytest.raises(ValueError, match="no receipts"):
        report.write_table({}, tmp_path / "none")


def test_curves_stand_at_their_windows():
    """A metric may be missing in the first window, as the seam is."""
    curves = report.window_curves(made(0.0))
    assert [point[:2] for point in curves["unigram"]] == [(1, 1.5), (2, 2.5)]
    assert report.floors_of({"a.window_00": {"floor": 2.0}, "a": {"floor": 1.0}}) == {"a": 2.0}
    assert report.window_rows(made(0.0)["metrics"]) == [{"unigram": 1.5}, {"unigram": 2.5}]


def test_receipts_are_found_and_named_by_their_folders(tmp_path):
    for name in ("a", "b"):
        receipts.write_receipt(tmp_path / name / "receipt.json", made(0.0))
    assert list(report.find_receipts(f"{tmp_path}/*/receipt.json")) == ["a", "b"]
    receipts.write_receipt(tmp_path / "named.json", made(0.0))
    assert list(report.find_receipts(f"{tmp_path}/*.json")) == ["named"]
    with pytest.raises(FileNotFoundError, match="no receipts match"):
        report.find_receipts(f"{tmp_path}/*/none.json")


def test_a_drift_report(tmp_path):
    rows = [{"entropy": 3.0, "seam": None}, {"entropy": 2.0, "seam": 1.5}]
    report.write_drift(rows, tmp_path / "drift", {"entropy": 3.1})
    assert (tmp_path / "drift.csv").read_text() == "window,entropy,seam\n0,3.0,\n1,2.0,1.5\n"
    assert Image.open(tmp_path / "drift.png").size[0] > 100
