"""The benchmark runs, counts and reports on a tiny model."""

import json

import jax
import pytest
import tiny

from launch import benchmarking


@pytest.fixture(scope="module")
def timings():
    with tiny.quick_compilation():
        benchmark = benchmarking.Benchmark(tiny.resolved_config(), batch_size=2, repeats=2)
        return benchmark.run()


def test_every_program_is_compiled_timed_and_weighed(timings):
    assert [timing.name for timing in timings] == [
        "features",
        "forward",
        "MGM step",
        "FM step",
        "MGM step, 1 new frame",
        "loss and gradient",
        "train step",
    ]
    for timing in timings:
        assert timing.seconds > 0
        assert timing.compile_seconds > 0
        assert timing.bytes > 0
    by_name = {timing.name: timing for timing in timings}
    assert by_name["train step"].flops == 3 * by_name["forward"].flops
    assert by_name["forward"].flops > by_name["features"].flops


def test_the_report_is_json_and_a_table(timings, tmp_path):
    peak = benchmarking.matmul_peak("float32", 1)
    result = benchmarking.report(tiny.resolved_config(), timings, peak)
    benchmarking.write(result, tmp_path / "new" / "benchmark")
    loaded = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert loaded["versions"]["jax"] == jax.__version__
    forward = next(row for row in loaded["programs"] if row["name"] == "forward")
    assert forward["over_forward"] == 1.0
    assert 0 < forward["of_peak"] < 1.5
    table = (tmp_path / "new" / "benchmark.md").read_text().splitlines()
    assert len(table) == 2 + len(timings)
    assert len({line.count("|") for line in table}) == 1
