"""The sampler tuner: budgets, the space, the frontier, and sections that sample as their trials."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from maskflow_jax.config import SamplingConfig
from maskflow_jax.config_files import read_config
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.evaluation.token_statistics import code_groups
from maskflow_jax.generation import tuning
from maskflow_jax.generation.comparison import Arena, parse
from maskflow_jax.generation.tuning import Budget, Trial
from maskflow_jax.generator import VideoGenerator

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def arena(tiny_run):
    generator = VideoGenerator.load(tiny_run)
    videos = read_token_dataset(tiny_run.parent / "data", "test")
    return Arena(generator, videos, code_groups(generator.tokenizer.codebook, 3), 1, (1, 2))


def test_budgets_are_read():
    assert tuning.read_budget("200") == Budget(evaluations=200)
    assert tuning.read_budget("1.5s") == Budget(seconds=1.5)
    for text in ("many", "2.5", "s", "5m"):
        with pytest.raises(ValueError, match="write network evaluations such as 200"):
            tuning.read_budget(text)
    with pytest.raises(ValueError, match="it must be more than 0"):
        tuning.read_budget("0")


def test_candidates_keep_within_the_budget(arena):
    found = tuning.candidates(arena, Budget(evaluations=40))
    assert all(arena.plan(c, 2).nfe == nfe <= 40 for c, nfe in found)
    samplers = {contestant.sampling.sampler.name for contestant, _ in found}
    assert samplers == set(tuning.SPACE)
    assert {c.sampling.stride for c, _ in found} == {1, 2, 3}
    everything = tuning.candidates(arena, Budget(seconds=1.0))
    assert len(everything) == (16 + 4 + 3 + 4) * 3 * 3 > len(found)
    assert found != tuning.candidates(arena, Budget(evaluations=40), seed=1)
    with pytest.raises(ValueError, match="raise the budget, or lower factors"):
        tuning.candidates(arena, Budget(evaluations=3))


def trial(nfe, error, seconds=None):
    return Trial(contestant=parse("mgm", 1), nfe=nfe, seconds=seconds, error=error)


def test_the_frontier_is_what_nothing_beats():
    trials = [trial(20, 0.3), trial(10, 0.5), trial(10, 0.4), trial(40, 0.35), trial(80, 0.1)]
    assert [(t.nfe, t.error) for t in tuning.frontier(trials)] == [(10, 0.4), (20, 0.3), (80, 0.1)]
    slow = [trial(1, 0.1, 5.0), trial(1, 0.1, 0.5), trial(1, 0.1)]
    assert tuning.within(slow, Budget(seconds=1.0)) == slow[1:]
    assert tuning.within(slow, Budget(evaluations=9)) == slow


def test_a_budget_of_seconds_skips_what_would_exceed_it(arena, monkeypatch, tmp_path):
    played = []

    def play(contestant):
        played.append(arena.plan(contestant, 2).nfe)
        return arena.real, 0.1

    monkeypatch.setattr(arena, "play", play)
    *_, done = tuning.tune(arena, Budget(seconds=5.0), trials=10)
    assert len(done) == 10
    assert all(nfe <= 50 for nfe in played[1:])  # the first tells the speed
    assert {t.error for t in done} == {tuning.real_error(arena)}
    with pytest.raises(ValueError, match=r"no trial kept within 0\.01 seconds"):
        list(tuning.tables(arena, "0.01s", 3, tmp_path / "tuned.png"))


def test_tuning_writes_a_frontier_and_sections_that_sample(arena, tmp_path):
    with tiny.quick_compilation():
        *_, (rows, table) = tuning.tables(arena, "20", 2, tmp_path / "tuned.png")
    assert (tmp_path / "tuned.png").stat().st_size > 1000
    assert len(rows) == 2 and "The best of 2 trials." in table
    best = min(rows, key=lambda row: row["error"])
    assert best["on_frontier"] and best["settings"] in table
    assert np.isfinite(best["error"])
    section = json.loads(json.dumps(best["sampling"]))
    config = read_config({"tokenizer": tiny.TOKENIZER, "sampling": section})
    asked = parse(best["settings"], arena.known).sampling
    assert isinstance(config.sampling, SamplingConfig)
    assert (config.sampling.sampler, config.sampling.stride) == (asked.sampler, asked.stride)
    assert config.sampling.context_frames == arena.chunk_size - asked.stride


def test_trials_know_what_they_need():
    """An arena whose budget is too small says so before anything is sampled."""
    nothing = SimpleNamespace(chunk_size=4, known=1, factors=[1], length=4)
    nothing.plan = lambda *_: SimpleNamespace(nfe=10**6)
    with pytest.raises(ValueError, match="with 100 network evaluations"):
        list(tuning.tune(nothing, Budget(evaluations=100), trials=1))
