"""The loop: when it looks, saves and stops, with a step that is plain arithmetic."""

import io
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import host_copy

from maskflow_jax.config import RunConfig
from maskflow_jax.parallel import sharding
from maskflow_jax.training.checkpoints import Checkpoints
from maskflow_jax.training.loop import NonFiniteLossError, Parts, Preemption, train_loop

CONFIG = {"seed": 0}


class Writer:
    """Keeps what is written."""

    def __init__(self):
        self.lines = []

    def write(self, step, scalars):
        self.lines.append((step, dict(scalars)))

    def steps(self, name):
        return [step for step, scalars in self.lines if name in scalars]


class Loop:
    """A run whose only parameter counts its steps; `bad` are the steps of infinite loss."""

    def __init__(self, workdir, world, *, bad=(), norm_bad=(), on_step=None):
        self.workdir, self.world, self.bad, self.norm_bad = workdir, world, bad, norm_bad
        self.on_step = on_step or (lambda step: None)
        self.writer, self.evaluated, self.hooked, self.batches = Writer(), [], [], []

    def train_step(self, state, key, batch):
        step = int(state["step"]) + 1
        self.batches.append(np.asarray(batch))
        self.on_step(step)
        loss = math.inf if step in self.bad else 1 / step
        norm = math.nan if step in self.norm_bad else 1.0
        params = {"w": state["params"]["w"] + 1}
        average = {"w": -params["w"]}  # validation must see these, not the raw ones
        state = {**state, "step": state["step"] + 1, "params": params, "ema_params": average}
        norms = {"head": jnp.float32(3.0), "blocks": jnp.float32(norm)}
        metrics = {"loss": loss, "grad_norm": norm, "accuracy": 0.0, "masked": 0.5}
        return state, {**metrics, "grad_norms": norms}

    def evaluate(self, params):
        self.evaluated.append(float(params["w"]))
        return {"cross_entropy": 1.0, "accuracy": 0.5}

    def initial(self):
        params = {"w": jnp.zeros(())}
        state = {"step": jnp.int32(0), "params": params, "ema_params": params, "opt_state": ()}
        return jax.device_put(state, sharding.replicated(self.world.mesh))

    def run(self, **settings):
        defaults = {"log_every": 2, "eval_every": 3, "checkpoint_every": 4, "hook_every": 5}
        checkpoints, batches = Checkpoints(self.workdir), self.world.batches()
        try:
            parts = Parts(
                train_step=self.train_step,
                batches=batches,
                evaluate=self.evaluate,
                checkpoints=checkpoints,
                writer=self.writer,
                hooks=[lambda step, state: self.hooked.append((step, int(state["step"])))],
            )
            state = checkpoints.restore(self.initial(), batches) or self.initial()
            run = RunConfig(**{**defaults, **settings})
            return train_loop(parts, state, jax.random.key(0), run, CONFIG)
        finally:
            checkpoints.close()

    def saved(self):
        return Checkpoints(self.workdir).steps()


def test_looks_at_its_intervals_and_at_the_end(tmp_path, world):
    loop = Loop(tmp_path, world)
    state, finished = loop.run(num_steps=11)
    assert finished
    assert host_copy(state)["params"]["w"] == 11
    assert loop.writer.steps("train/loss") == [2, 4, 6, 8, 10, 11]
    assert loop.writer.steps("validation/cross_entropy") == [3, 6, 9, 11]
    assert loop.evaluated == [-3, -6, -9, -11]
    assert loop.hooked == [(5, 5), (10, 10), (11, 11)]
    assert loop.saved() == [8, 11]
    _, scalars = loop.writer.lines[0]
    assert scalars["train/loss"] == 0.5
    assert scalars["train/steps_per_second"] > 0


def test_a_finished_run_does_nothing_and_says_so(tmp_path, world, caplog):
    caplog.set_level("INFO", logger="absl")
    Loop(tmp_path, world).run(num_steps=3)
    again = Loop(tmp_path, world)
    state, finished = again.run(num_steps=3)
    assert finished
    assert state["step"] == 3
    assert not again.batches
    assert "nothing left to train" in caplog.text
    state, _ = again.run(num_steps=5)
    assert state["step"] == 5


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stderr", [Terminal, io.StringIO])
def test_a_terminal_shows_a_bar_and_a_file_gets_lines(tmp_path, world, caplog, monkeypatch, stderr):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr("sys.stderr", shown := stderr())
    Loop(tmp_path, world).run(num_steps=3)
    bar, lines = "3/3" in shown.getvalue(), "step 3/3  loss 0.333" in caplog.text
    assert (bar, lines) == ((True, False) if stderr is Terminal else (False, True))
    assert ("loss 0.333" in shown.getvalue()) == bar


@pytest.mark.parametrize("which", ["bad", "norm_bad"])
@pytest.mark.parametrize("step", [1, 5, 7, 8, 9])  # 8 is to be saved, 9 is the last
def test_a_step_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path, world, step, which):
    loop = Loop(tmp_path, world, **{which: (step,)})
    with pytest.raises(NonFiniteLossError, match=rf"step {step}: .*head 3.*lower the learning"):
        loop.run(num_steps=9, log_every=100)  # so that only saving looks at step 8
    assert loop.saved() == [saved for saved in (4, 8) if saved < step]
    # At most one step was begun before the bad one was noticed.
    assert len(loop.batches) <= step + 1
    healthy = Loop(tmp_path, world)
    state, finished = healthy.run(num_steps=9)
    assert finished
    assert state["params"]["w"] == 9


def terminate_at(step):
    return lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == step else None


def test_sigterm_saves_and_the_run_goes_on_with_the_next_batch(tmp_path, world):
    loop = Loop(tmp_path, world, on_step=terminate_at(6))
    state, finished = loop.run(num_steps=9)
    assert not finished
    assert state["step"] == 6
    assert loop.saved() == [4, 6]
    assert loop.hooked == [(5, 5)]
    rest = Loop(tmp_path, world)
    _, finished = rest.run(num_steps=9)
    assert finished
    whole = Loop(tmp_path / "whole", world)
    whole.run(num_steps=9)
    np.testing.assert_array_equal(np.stack(loop.batches + rest.batches), np.stack(whole.batches))


def test_sigterm_in_the_last_step_finishes_the_run(tmp_path, world):
    loop = Loop(tmp_path, world, on_step=terminate_at(9))
    _, finished = loop.run(num_steps=9)
    assert finished
    assert loop.saved() == [8, 9]
    assert loop.evaluated[-1] == -9
    assert loop.hooked[-1] == (9, 9)


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_previous_handler_comes_back(error):
    caught = []
    handler = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        try:
            with Preemption() as preemption:
                assert not preemption.reached(1)
                os.kill(os.getpid(), signal.SIGTERM)
                assert preemption.reached(2)
                if error:
                    raise error
        except RuntimeError:
            pass
        assert signal.getsignal(signal.SIGTERM) is ours
        assert not caught
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("name", ["num_steps", "log_every", "keep_checkpoints"])
def test_intervals_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        RunConfig(**{"num_steps": 5, name: 0})
