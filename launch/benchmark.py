"""Measures a config's model on these devices: seconds, FLOP/s against the matmul peak, memory.

    python -m launch.benchmark --config=configs/faceforensics.py --config.model.variant=S/2 \
        --config.model.dtype=float32 --grid=16 --batch_size=1

writes benchmark.json and benchmark.md: forward pass, sampler steps and chunks, loss and gradient,
train step, the input pipeline. No dataset and no tokenizer are read. `--programs` measures some of
them only, and `--memory` plans the train step's memory for several batch sizes instead, of any
model, without a device that could hold it.
"""

from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from launch import benchmark_report, benchmarking, memory_plan
from launch.host_speed import measure_host
from launch.startup import start
from maskflow_jax.training import trainer

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_OUT = flags.DEFINE_string("out", "benchmark", "Result files, without suffix.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "Samples of every program.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed runs of every program.", lower_bound=1)
_GRID = flags.DEFINE_integer("grid", 32, "Tokens along a side of a frame.")
_CODEBOOK = flags.DEFINE_integer("codebook_size", 16384, "Token values.")
_PROGRAMS = flags.DEFINE_multi_string("programs", None, "Only these, such as 'train step'.")
_MEMORY = flags.DEFINE_list("memory", None, "Batch sizes to plan the train step's memory for.")
flags.mark_flag_as_required("config")


def main(_) -> None:
    """Measures, prints and writes."""
    start(keep_compiled=False)  # compiling is measured too
    tokenizer = {
        "name": "none",
        "sha256": "0" * 64,
        "codebook_size": _CODEBOOK.value,
        "grid": [_GRID.value] * 2,
        "frame_size": 8 * _GRID.value,
    }
    config = trainer.resolve(_CONFIG.value.to_dict(), tokenizer)
    trainer.check_config(config)
    if _MEMORY.value:
        batches = [int(batch) for batch in _MEMORY.value]
        logging.info("train step:\n%s", memory_plan.table(config, batches))
        return
    benchmark = benchmarking.Benchmark(config, batch_size=_BATCH.value, repeats=_REPEATS.value)
    unknown = set(_PROGRAMS.value or ()) - set(benchmark.programs())
    if unknown:
        raise ValueError(f"no program {sorted(unknown)}; choose from {list(benchmark.programs())}")
    peak = benchmarking.matmul_peak(config["model"]["dtype"], _REPEATS.value)
    logging.info("matmul peak: %.1f GFLOP/s on %s", peak / 1e9, jax.devices()[0].device_kind)
    host, benchmark.state = measure_host(config, benchmark.state, batch_size=_BATCH.value)
    result = benchmark_report.report(
        config,
        benchmark.run(_PROGRAMS.value),
        peak=peak,
        batch_size=_BATCH.value,
        host=host,
    )
    benchmark_report.write(result, Path(_OUT.value))
    logging.info("wrote %s.md:\n%s", _OUT.value, benchmark_report.as_markdown(result))


if __name__ == "__main__":
    app.run(main)
