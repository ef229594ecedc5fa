"""Measures a config's model on this device: seconds, FLOP/s against the matmul peak, memory.

    python -m launch.benchmark --config=configs/faceforensics.py --config.model.variant=S/2 \
        --config.model.dtype=float32 --grid=16 --batch_size=1

writes benchmark.json and benchmark.md. No dataset and no tokenizer are read.
"""

from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from launch import benchmarking
from launch.logs import quiet_libraries
from maskflow_jax.training import experiment

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_OUT = flags.DEFINE_string("out", "benchmark", "Result files, without suffix.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "Samples of every program.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed runs of every program.", lower_bound=1)
_GRID = flags.DEFINE_integer("grid", 32, "Tokens along a side of a frame.")
_CODEBOOK = flags.DEFINE_integer("codebook_size", 16384, "Token values.")
flags.mark_flag_as_required("config")


def main(_) -> None:
    """Measures, prints and writes."""
    quiet_libraries()
    tokenizer = {
        "name": "none",
        "sha256": "0" * 64,
        "codebook_size": _CODEBOOK.value,
        "grid": [_GRID.value] * 2,
        "frame_size": 8 * _GRID.value,
    }
    config = experiment.resolve(_CONFIG.value.to_dict(), tokenizer)
    experiment.check_config(config)
    benchmark = benchmarking.Benchmark(config, batch_size=_BATCH.value, repeats=_REPEATS.value)
    peak = benchmarking.matmul_peak(config["model"]["dtype"], _REPEATS.value)
    logging.info("matmul peak: %.1f GFLOP/s on %s", peak / 1e9, jax.devices()[0].device_kind)
    result = benchmarking.report(config, benchmark.run(), peak)
    benchmarking.write(result, Path(_OUT.value))
    logging.info("wrote %s.md:\n%s", _OUT.value, benchmarking.as_markdown(result))


if __name__ == "__main__":
    app.run(main)
