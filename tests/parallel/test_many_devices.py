"""Eight devices do what one does, and no more: `eight_devices` runs them, the tests look at it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import eight_devices
import jax
import numpy as np
import pytest
from eight_devices import CASES, CONTEXT, MOVES, SAMPLERS, K

HERE = Path(__file__).parents[1]
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Programs that run for milliseconds: compiled in a third of the time.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # An option that newer releases of XLA do not know; an unknown one would end the process.
    *([] if jax.__version_info__ >= (0, 11) else ["--xla_cpu_use_fusion_emitters=false"]),
)


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(FLAGS),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, eight_devices.__file__, str(folder)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    tokens = dict(np.load(folder / "tokens.npz"))
    return {**json.loads((folder / "findings.json").read_text()), "tokens": tokens}


def one_device(case):
    return "one device, patches of 1" if CASES[case][1] == 1 else "one device"


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_one_device(findings, case):
    """However batch and weights are split, and whether the head's places can be or not."""
    found, alone = findings["losses"][case], findings["losses"][one_device(case)]
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5)
    assert len(set(found["losses"])) == eight_devices.STEPS


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_compiled_once_and_takes_its_own_state(findings, case):
    found = findings["losses"][case]
    assert found["compilations"] == 1
    assert found["donated"]
    assert found["placed by the rules"]


@pytest.mark.parametrize("move", MOVES)
def test_a_checkpoint_goes_on_on_another_mesh(findings, move):
    """That it came back bit by bit is asserted where the state is, in `eight_devices.move`."""
    found = findings["moves"][move]
    assert found["placed by the rules"]
    assert found["compilations"] == 1
    np.testing.assert_allclose(found["loss"], findings["moves"]["next loss"], rtol=1e-5)


def test_a_new_state_and_the_held_out_measure(findings):
    found = findings["init"]
    assert found["placed by the rules"]
    assert found["replicated"]
    np.testing.assert_allclose(*found["sums"], rtol=1e-5)
    assert max(found["sums"][1]) > 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_are_those_of_one_device(findings, sampler):
    """Five videos, filled up to eight, are the first five of eight."""
    tokens = findings["tokens"]
    alone = tokens[f"{sampler} one device"]
    np.testing.assert_array_equal(tokens[f"{sampler} data"], alone)
    np.testing.assert_array_equal(tokens[f"{sampler} data, five videos"], alone[:5])
    assert len({video.tobytes() for video in alone}) == len(alone)
    assert np.unique(alone[:, CONTEXT:]).size > K / 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_of_split_weights(findings, sampler):
    """Sums over devices are added in another order, so that logits differ in the last bits.

    Where two classes are that close, another one may be drawn, and the tokens after it are other
    ones too. So the samples are not promised to be the same: of these none is another.
    """
    assert findings["logits"] < 1e-5
    alone = findings["tokens"][f"{sampler} one device"]
    split = findings["tokens"][f"{sampler} fsdp and tensor"]
    np.testing.assert_array_equal(split[:, :CONTEXT], alone[:, :CONTEXT])
    assert np.mean(split != alone) < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_window_is_compiled_once(findings, sampler):
    """For three chunks, and not again for another number of videos on as many devices."""
    compiled = findings["samplers"]["compiled"]
    assert [compiled[f"{sampler} {where}"] for where in eight_devices.VIDEOS] == [1, 1, 0, 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_window_needs_nothing_from_the_host(findings, sampler):
    """That it did not is asserted where it ran; here, that it made all tokens."""
    assert 0 < findings["samplers"]["largest token"][sampler] < K


def test_splitting_the_batch_only_adds_up(findings):
    """No device fetches samples, features or weights of another: gradients and sums are added."""
    found = findings["losses"]["data"]["exchanged"]
    assert {*found["loops"], *found["elsewhere"]} == {"all-reduce"}
    for sampler in SAMPLERS:
        exchanged = findings["samplers"]["exchanged"][f"{sampler} data"]
        assert exchanged == {"loops": [], "elsewhere": []}


@pytest.mark.parametrize("case", ["data and tensor, micro-batches", "fsdp and tensor"])
def test_the_head_stays_split_over_tensor(findings, case):
    """Kernel, gradient, average and moments: no device ever has a whole one."""
    assert not findings["losses"][case]["whole head"]
    assert findings["losses"]["data"]["whole head"]  # or else nothing was looked for


def test_split_layers_exchange_no_pieces_of_modulation(findings):
    """Shifts, scales and gates that are split over `tensor` are sent round in every block."""
    found = findings["losses"]["data and tensor, micro-batches"]["exchanged"]
    assert "all-reduce" in found["loops"]
    assert "collective-permute" not in [*found["loops"], *found["elsewhere"]]
