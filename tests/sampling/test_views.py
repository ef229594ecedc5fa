"""Views: the times and the context that the network is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule, quick_jit, sample_keys, step_at

from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.samplers import FM
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.views import GRID, View
from maskflow_jax.sampling.window import sample_window

MASK = 9


def told_times(schedule, t, share, **settings):
    """What is told for frames at times t [T] of which `share` eighths are known."""
    known = jnp.broadcast_to((jnp.arange(8) < share)[None, None, None], (1, len(t), 1, 8))
    x = jnp.full(known.shape, MASK)
    view = View(schedule=schedule, **settings)
    _, told = view(sample_keys(0, 1), x, step_at(x, jnp.asarray(t)[None], known=known))
    assert told.dtype == jnp.float32
    return np.asarray(told[0])


@pytest.mark.parametrize("name", SCHEDULES)
def test_told_times_belong_to_the_share_of_clean_tokens(name):
    """The inverse is looked up in a table: right to half a cell, float32 included."""
    schedule = make_schedule(name)
    t = np.concatenate([np.linspace(0.0, 1.0, 3001), np.logspace(-7, -3, 50)]).astype(np.float32)
    clean = np.asarray(schedule.kappa(t), np.float64)
    for context_time in (1.0, 0.6, 0.0):
        settings = {"context_time": context_time}
        np.testing.assert_array_equal(told_times(schedule, t, 0, **settings), t)
        np.testing.assert_array_equal(
            told_times(schedule, t, 8, **settings), np.float32(context_time)
        )
        context = float(schedule.kappa(np.float32(context_time)))
        for share in (1, 4, 7):
            expected = schedule.inverse(share / 8 * context + (1 - share / 8) * clean)
            told = told_times(schedule, t, share, **settings)
            np.testing.assert_allclose(told, expected, rtol=0, atol=0.5 / GRID)


@pytest.mark.parametrize("independent", [0.0, 1.0])
def test_independent_time_is_told_for_all_but_known_frames(independent):
    schedule, t = make_schedule("sigmoid"), np.linspace(0.0, 1.0, 7, dtype=np.float32)
    settings = {"independent_time": independent, "context_time": 0.9}
    for share in (0, 4, 7):
        np.testing.assert_array_equal(told_times(schedule, t, share, **settings), independent)
    np.testing.assert_array_equal(told_times(schedule, t, 8, **settings), np.float32(0.9))


B, T, H, W = 3, 4, 20, 30


def window(samples=slice(None)):
    """A step where frames are known, half known, masked, and half revealed by a window before."""
    x = np.random.default_rng(0).integers(0, MASK, (B, T, H, W)).astype(np.int32)
    half, frame = np.arange(W) < W // 2, np.arange(T)[:, None, None]
    known = np.broadcast_to((frame == 0) | ((frame == 1) & half), x.shape)
    revealed = np.broadcast_to((frame == 3) & half, x.shape)
    x = np.where(known | revealed, x, MASK)[samples]
    step = step_at(x, jnp.full(x.shape[:2], 0.5), known=known[samples], mask_id=MASK)
    return x, step._replace(unknown=~(known | revealed)[samples])


@pytest.mark.parametrize("context_time", [0.3, 0.9])
@pytest.mark.parametrize("name", ["sigmoid", "cosine"])
def test_a_lowered_context_time_hides_known_tokens_only(name, context_time):
    """Each with probability 1 - kappa, at other places for another key."""
    schedule = make_schedule(name)
    view = View(schedule=schedule, context_time=context_time)
    (x, step), one = window(), slice(1, 2)

    @quick_jit
    def views(keys, other_keys):
        return view(keys, x, step), view(other_keys, x, step), view(keys[one], *window(one))

    (shown, told), (again, _), alone = views(sample_keys(0, B), sample_keys(1, B))
    hidden = np.asarray(shown == MASK) & step.known
    np.testing.assert_array_equal(np.where(hidden, x, shown), x)
    kappa, count = float(schedule.kappa(context_time)), int(step.known.sum())
    deviation = np.sqrt(kappa * (1 - kappa) / count)
    assert abs(hidden.sum() / count - (1 - kappa)) < 4 * deviation
    assert all(np.any(hidden[0] != other) for other in hidden[1:])
    assert np.any(again != shown)
    # A sample's view is its own key's and nobody else's.
    np.testing.assert_array_equal(alone[0][0], shown[1])
    np.testing.assert_array_equal(alone[1][0], told[1])


def test_at_context_time_1_nothing_is_hidden_and_at_0_all():
    x, step = window()
    for context_time, expected in ((1.0, x), (0.0, np.where(step.known, MASK, x))):
        view = View(schedule=make_schedule("sigmoid"), context_time=context_time)
        np.testing.assert_array_equal(view(sample_keys(0, B), x, step)[0], expected)


def test_the_window_keeps_what_the_network_is_not_shown():
    """At every step another part of the context is hidden; the sample still holds all of it."""
    view, shown = View(schedule=make_schedule("sigmoid"), context_time=0.5), []

    def propose(keys, x, step):
        jax.debug.callback(lambda x: shown.append(np.asarray(x)), view(keys, x, step)[0])
        return Proposal(jnp.zeros_like(x), jnp.zeros(x.shape))

    x, step = window()
    times = full_sequence(3, T)
    tokens, _ = quick_jit(
        lambda keys: sample_window(
            keys,
            WindowTokens(x, step.known),
            times,
            propose,
            FM().step,
            mask_id=MASK,
            schedule=make_schedule("sigmoid"),
        )
    )(sample_keys(0, B))
    jax.effects_barrier()
    np.testing.assert_array_equal(tokens, np.where(step.known, x, 0))
    hidden = [(state == MASK)[step.known] for state in shown]
    assert len(hidden) == 3
    assert all(0.3 < part.mean() < 0.7 for part in hidden)
    assert np.any(hidden[0] != hidden[1])
    assert np.any(hidden[1] != hidden[2])


@pytest.mark.parametrize("time", [-0.1, 1.1, float("nan")])
def test_times_outside_0_to_1_are_refused(time):
    for name in ("context_time", "independent_time"):
        with pytest.raises(ValueError, match=f"{name} is {time}"):
            View(schedule=make_schedule("linear"), **{name: time})
