"""Receipts: what is written, what an edit shows, which differences hold."""

import copy
import json

import pytest

from maskflow_jax.evaluation import receipts
from maskflow_jax.evaluation.receipts import Metric

METRICS = [
    Metric(name="fd", draws=(1.0, 3.0), n=8, floor=0.5, floor_n=4),
    Metric(name="bits", draws=(0.25,), n=5),
]
SECTIONS = {"settings": {"seeds": (0, 1)}, "hashes": {"weights": "ab"}}


@pytest.fixture
def receipt():
    return receipts.make_receipt(SECTIONS, METRICS)


def test_a_receipt_holds_everything_and_survives_its_file(receipt, tmp_path):
    assert receipt["metrics"]["fd"] == {
        **{"mean": 2.0, "std": pytest.approx(2**0.5), "draws": [1.0, 3.0], "n": 8},
        **{"floor": 0.5, "floor_n": 4},
    }
    assert receipt["metrics"]["bits"]["std"] is None
    assert receipt["versions"]["jax"] and receipt["device"]["kind"]
    receipts.write_receipt(tmp_path / "r.json", receipt)
    again = receipts.read_receipt(tmp_path / "r.json")
    assert again == receipt
    assert all(check.holds for check in receipts.check_sections(again))
    assert [check.how for check in receipts.compare(again, METRICS)] == ["bitwise"] * 2


@pytest.mark.parametrize(
    ("edit", "failed"),
    [
        (lambda r: r["metrics"]["fd"].update(mean=1.9), "section metrics: it was edited"),
        (lambda r: r["hashes"].update(weights="cd"), "section hashes: it was edited"),
        (lambda r: r.pop("settings"), "section settings: it was removed"),
        (lambda r: r.update(note="hi"), "section note: it was edited"),
    ],
)
def test_an_edit_fails_by_name(receipt, edit, failed):
    edit(receipt)
    checks = [check for check in receipts.check_sections(receipt) if not check.holds]
    assert [str(check) for check in checks] == [f"FAILS  {failed}"]


def with_draw(value):
    return [Metric(name="fd", draws=(value, 3.0), n=8, floor=0.5, floor_n=4), METRICS[1]]


def test_numbers_hold_bitwise_here_and_within_a_tolerance_elsewhere(receipt):
    close, far = with_draw(1.0 + 1e-5), with_draw(1.01)
    assert [c.name for c in receipts.compare(receipt, close) if not c.holds] == ["fd"]
    elsewhere = copy.deepcopy(receipt)
    elsewhere["device"]["kind"] = "another"
    held = {c.name: c for c in receipts.compare(elsewhere, close)}
    assert held["fd"].holds and "within 0.001" in held["fd"].how
    assert held["bits"].how == "bitwise"
    (failed,) = [c for c in receipts.compare(elsewhere, far) if not c.holds]
    assert "2.0 there, 2.005 recomputed" in failed.how
    missing = [c.how for c in receipts.compare(receipt, METRICS[:1]) if not c.holds]
    assert missing == ["it is not in the recomputed ones"]


def test_files_fail_by_name(tmp_path):
    for number in range(3):
        (tmp_path / f"sample_{number}.npz").write_text(str(number))
    (expected,) = receipts.hash_files([tmp_path], "sample_*.npz")
    assert [c.holds for c in receipts.check_files(tmp_path, expected)] == [True]
    (tmp_path / "sample_1.npz").write_text("other")
    (tmp_path / "sample_2.npz").unlink()
    failed = [str(check) for check in receipts.check_files(tmp_path, expected)]
    assert failed == [
        f"FAILS  file {tmp_path}/sample_1.npz: it was changed",
        f"FAILS  file {tmp_path}/sample_2.npz: it is missing",
    ]
    assert not receipts.check_hash("weights", "a", "b").holds


def test_files_that_are_no_receipt_are_refused(receipt, tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(FileNotFoundError, match="no receipt"):
        receipts.read_receipt(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        receipts.read_receipt(path)
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is no receipt"):
        receipts.read_receipt(path)
    path.write_text(json.dumps(receipt | {"format": receipts.FORMAT + 1}))
    with pytest.raises(ValueError, match=r"format 2.*install a newer version"):
        receipts.read_receipt(path)
