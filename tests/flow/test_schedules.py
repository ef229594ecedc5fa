"""Noise schedules: the three promises of the module, and the released code's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule

from maskflow_jax.flow.schedules import SCHEDULES

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "schedules.npz")
# Its 1 - t^2 cancels in float32 near t = 1; ours is (1 - t)(1 + t).
RTOL = {"arccos": 1e-5, "arcsin": 1e-5}
VARIANTS = [(name, {}) for name in SCHEDULES] + [
    ("cubic", {"a": 1.0, "b": 1.0}),
    ("cubic", {"a": 0.5, "b": 0.0}),
    ("sigmoid", {"start": 0.0, "end": 3.0, "tau": 0.7}),
]


@pytest.mark.parametrize("name", SCHEDULES)
def test_matches_the_released_code(name):
    schedule = make_schedule(name)
    times = REFERENCE["t"]
    np.testing.assert_allclose(schedule.kappa(times), REFERENCE[name], atol=1e-6)
    derivative = np.asarray(schedule.derivative(times))
    if name.startswith("arc"):  # the released code puts 1e-6 under the root, felt near t = 1
        derivative = derivative / np.sqrt(1.0 + 1e-6 * (derivative * np.pi / 2.0) ** 2)
    np.testing.assert_allclose(
        derivative, REFERENCE[f"{name}_derivative"], rtol=RTOL.get(name, 1e-6), atol=1e-6
    )


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_runs_from_zero_to_one_and_never_decreases(name, params):
    schedule = make_schedule(name, **params)
    kappa = np.asarray(jax.jit(schedule.kappa)(jnp.linspace(0.0, 1.0, 4097)))
    assert kappa[0] == 0.0
    assert kappa[-1] == 1.0
    assert np.all(np.diff(kappa) >= -1e-7)  # one float32 rounding
    assert np.all(np.diff(kappa[::64]) > 0.0)


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_derivative_is_the_gradient_and_finite_at_the_ends(name, params):
    schedule = make_schedule(name, **params)
    times = jnp.linspace(0.01, 0.99, 99)
    expected = jax.vmap(jax.grad(schedule.kappa))(times)
    derivative = jax.jit(schedule.derivative)
    np.testing.assert_allclose(derivative(times), expected, rtol=2e-5, atol=1e-5)
    ends = np.asarray(derivative(jnp.array([0.0, 1.0])))
    assert np.all(np.isfinite(ends))
    assert np.all(ends >= -1e-6)


@pytest.mark.parametrize(("name", "params"), VARIANTS)
def test_inverse_undoes_kappa(name, params):
    schedule = make_schedule(name, **params)
    fractions = np.linspace(0.0, 1.0, 101)
    times = schedule.inverse(fractions)
    assert times.dtype == np.float64
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert np.all(np.diff(times) > 0.0)
    np.testing.assert_allclose(schedule.kappa(times), fractions, atol=2e-6)


def test_two_names_of_one_function():
    times = jnp.linspace(0.0, 1.0, 33)
    np.testing.assert_array_equal(
        make_schedule("arccos").kappa(times), make_schedule("arcsin").kappa(times)
    )
    np.testing.assert_allclose(make_schedule("cubic").kappa(times), times**2, atol=1e-7)


def test_refusals_name_the_fix():
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        make_schedule("cubic", a=-1.0)
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        make_schedule("cubic", a=8.0, b=8.0)  # slopes positive at both ends, dips between them
    with pytest.raises(ValueError, match="start < end"):
        make_schedule("sigmoid", start=1.0, end=1.0)
    with pytest.raises(TypeError):
        make_schedule("linear", a=1.0)
