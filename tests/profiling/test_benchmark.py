"""The benchmark runs, counts and reports on a tiny model."""

import json

import jax
import pytest
import tiny
from flax import nnx

from maskflow_jax.profiling import benchmark as benchmarking
from maskflow_jax.profiling import memory_plan
from maskflow_jax.profiling import report as benchmark_report
from maskflow_jax.profiling.host_speed import HostSpeed, measure_host
from maskflow_jax.training.building import model_builder

CONFIG = tiny.tiny_config(sampling={"context_frames": 1})


@pytest.fixture(scope="module")
def measured():
    with tiny.quick_compilation():
        benchmark = benchmarking.Benchmark(CONFIG, batch_size=2, repeats=2, published=True)
        host, benchmark.state = measure_host(CONFIG, benchmark.state, batch_size=2)
        return benchmark.run(), host


def test_every_program_is_compiled_timed_and_weighed(measured):
    timings, _ = measured
    assert [timing.name for timing in timings] == [
        "features",
        "forward",
        "MGM step",
        "FM step",
        "MGM step, 1 new frame",
        "MGM chunk",
        "MGM chunk, 1 new frame",
        "MGM chunk, 1 new frame, cached",
        "loss and gradient",
        *benchmarking.PUBLISHED,
        "train step",
    ]
    for timing in timings:
        assert timing.seconds > 0
        assert timing.compile_seconds > 0
        assert timing.bytes > 0
    by_name = {timing.name: timing for timing in timings}
    assert by_name["train step"].flops == 3 * by_name["forward"].flops
    assert by_name["forward"].flops > by_name["features"].flops
    assert by_name["MGM chunk"].frames == 2 * 3  # of 4 frames one is context
    assert by_name["MGM chunk, 1 new frame, cached"].frames == 2
    assert by_name["train step"].frames == 2 * 4


def test_the_host_is_fast_enough_to_be_measured(measured):
    _, host = measured
    assert host.clips_per_second > 10
    assert 0 < host.overhead_seconds < 1


def test_the_report_is_json_and_a_table(measured, tmp_path):
    timings, host = measured
    peak = benchmarking.matmul_peak("float32", 1)
    result = benchmark_report.report(CONFIG, timings, peak=peak, batch_size=2, host=host)
    benchmark_report.write(result, tmp_path / "new" / "benchmark")
    loaded = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert loaded["versions"]["jax"] == jax.__version__
    assert (loaded["devices"], loaded["precision"]) == (1, "float32")
    rows = {row["name"]: row for row in loaded["programs"]}
    assert rows["forward"]["over_forward"] == rows["features"]["over_features"] == 1.0
    assert 0 < rows["forward"]["of_peak"] < 1.5
    for name, ours in benchmarking.PUBLISHED.items():
        assert rows[name]["over_ours"] == rows[name]["seconds"] / rows[ours]["seconds"]
    chunk = rows["MGM chunk"]
    assert chunk["frames_per_second"] == pytest.approx(6 / chunk["seconds"])
    assert chunk["tokens_per_second"] == pytest.approx(16 * 6 / chunk["seconds"])
    consumption = 2 / rows["train step"]["seconds"]
    expected = host.clips_per_second / consumption
    assert loaded["host"]["over_train_step"] == pytest.approx(expected)
    table, _, host_line = (tmp_path / "new" / "benchmark.md").read_text().partition("\n\n")
    assert len(table.splitlines()) == 2 + len(timings)
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert host_line.startswith(f"Host: {host.clips_per_second:.0f} clips/s")


def test_a_report_of_some_programs_leaves_out_what_it_cannot_compare(measured):
    step = [timing for timing in measured[0] if timing.name == "MGM step"]
    host = HostSpeed(clips_per_second=5.0, overhead_seconds=0.001)
    result = benchmark_report.report(CONFIG, step, peak=1e9, batch_size=2, host=host)
    assert result["programs"][0]["over_forward"] is None
    assert result["host"]["over_train_step"] is None
    assert "1.00 ms of Python" in benchmark_report.as_markdown(result)


def test_memory_is_planned_without_a_model():
    with tiny.quick_compilation():
        plans = [memory_plan.plan_train_step(CONFIG, batch) for batch in (1, 8)]
    size = sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes()))
    # Parameters, their average and two moments, and two counters.
    assert {plan.state_bytes for plan in plans} == {16 * size + 8}
    assert plans[1].temporary_bytes > 2 * plans[0].temporary_bytes


def parameter_shapes():
    build = model_builder(CONFIG)
    return nnx.to_pure_dict(nnx.eval_shape(lambda: nnx.state(build(nnx.Rngs(0)))))
