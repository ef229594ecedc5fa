"""Measures a config's model on these devices: seconds, FLOP/s against the matmul peak, memory.

    python -m launch.benchmark --config=configs/faceforensics.py --config.model.variant=S/2 \
        --config.model.dtype=float32 --grid=16 --batch_size=1

writes benchmark.json and benchmark.md into `--out`: forward pass, sampler steps and chunks, loss
and gradient, train step, the input pipeline. No dataset and no tokenizer are read. `--programs`
measures some of them only, and `--published` also the published algorithms as they stand, with full
logits and a random number for every class. `--memory` plans the train step's memory for several
batch sizes instead, of any model, without a device that could hold it. `--scaling=8x1x1,1x8x1`
predicts from programs compiled for so many devices (data x fsdp x tensor) how training scales.
"""

import math
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import config_flags

from launch import cli
from launch.startup import start

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment settings.", lock_config=True)
_OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder of the results.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "Samples of every program.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed runs of every program.", lower_bound=1)
_GRID = flags.DEFINE_integer("grid", 32, "Tokens along a side of a frame.", lower_bound=1)
_CODEBOOK = flags.DEFINE_integer("codebook_size", 16384, "Token values.", lower_bound=1)
_PROGRAMS = flags.DEFINE_multi_string("programs", None, "Only these, such as 'train step'.")
_PUBLISHED = flags.DEFINE_bool("published", False, "Also measures the published algorithms.")
_MEMORY = flags.DEFINE_list("memory", None, "Batch sizes to plan the train step's memory for.")
_SCALING = flags.DEFINE_list("scaling", None, "Meshes to predict the train step's time on.")
flags.mark_flag_as_required("config")


def main(_) -> None:
    """Measures, prints and writes."""
    start(keep_compiled=False)  # compiling is measured too
    from maskflow_jax.config_files import read_config
    from maskflow_jax.io.settings import read_integers
    from maskflow_jax.profiling import benchmark, memory_plan, report, scaling
    from maskflow_jax.profiling.host_speed import measure_host
    from maskflow_jax.training.trainer import with_tokenizer

    sizes = {"codebook_size": _CODEBOOK.value, "grid": [_GRID.value] * 2}
    identity = {"name": "none", "sha256": "0" * 64, "frame_size": 8 * _GRID.value, **sizes}
    config = with_tokenizer(read_config(_CONFIG.value), identity)
    if _MEMORY.value:
        batches = read_integers("memory", _MEMORY.value)
        logging.info("train step:\n%s", memory_plan.table(config, batches))
        return
    if _SCALING.value:
        meshes = [scaling.parse_mesh(text) for text in _SCALING.value]
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(math.prod(mesh) for mesh in meshes))
        counts = [scaling.count(config, mesh, _BATCH.value) for mesh in meshes]
        scaling.write(counts, Path(_OUT.value))
        logging.info("wrote %s:\n%s", _OUT.value, scaling.table(counts))
        return
    programs = benchmark.Benchmark(
        config, batch_size=_BATCH.value, repeats=_REPEATS.value, published=_PUBLISHED.value
    )
    if unknown := set(_PROGRAMS.value or ()) - set(programs.programs()):
        raise ValueError(f"no program {sorted(unknown)}; choose from {list(programs.programs())}")
    before = benchmark.matmul_peak(config.model.dtype, _REPEATS.value)
    host, programs.state = measure_host(config, programs.state, batch_size=_BATCH.value)
    timings = programs.run(_PROGRAMS.value)
    # Before and after, because a busy machine may be slower at one of the two.
    peak = max(before, benchmark.matmul_peak(config.model.dtype, _REPEATS.value))
    logging.info("matmul peak: %.1f GFLOP/s on %s", peak / 1e9, jax.devices()[0].device_kind)
    result = report.report(config, timings, peak=peak, batch_size=_BATCH.value, host=host)
    report.write(result, Path(_OUT.value) / "benchmark")
    logging.info("wrote %s:\n%s", _OUT.value, report.as_markdown(result))


if __name__ == "__main__":
    cli.run(main)
