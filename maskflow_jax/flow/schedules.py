"""Noise schedules: kappa(t), the probability that a token is clean at time t.

The probability path masks every token independently (MaskFlow, arXiv 2502.11234, Eq. 5, where
kappa(t) = t):

    p_t(xt | x1) = kappa(t) [xt = x1] + (1 - kappa(t)) [xt = mask],   t = 0 masked, t = 1 clean.

Every schedule here has three properties: kappa(0) = 0 and kappa(1) = 1 exactly, kappa never
decreases, and kappa' is finite at both ends. The released code differs in two places:

- It clips `sigmoid` to at least 1e-5, so that kappa(0) > 0. Here kappa(0) = 0. The clip has no
  effect on its training, because times are drawn from [1e-3, 1].
- The derivative of `root` is infinite at 0, that of `arccos` and `arcsin` at 1. Here the value at
  the distance `SINGULARITY` is used within that distance, and the exact derivative elsewhere. (The
  released code adds 1e-6 under the square root of `arccos` and `arcsin`, which changes the
  derivative by 2.5e-4 at t = 0.999.)

`arccos` and `arcsin` are one function, since acos(t) = pi/2 - asin(t), and `cubic` at its defaults
is t^2. All names are kept because published configurations use them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

SINGULARITY = 1e-6  # least distance from the end points at which kappa' is infinite
BISECTIONS = 60  # halvings of [0, 1], more than float64 can resolve


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One noise schedule.

    Attributes:
        name: Key in `SCHEDULES`.
        kappa: Function of times (any shape) to the probability that a token is clean; can be
            jitted.
        derivative: Function of times (any shape) to d kappa / d t, finite on [0, 1]; can be jitted.
        inverse: Function of probabilities to times in NumPy float64, for matrices that are built
            outside of jit.
    """

    name: str
    kappa: Callable[[jax.Array], jax.Array]
    derivative: Callable[[jax.Array], jax.Array]
    inverse: Callable[[np.ndarray], np.ndarray]


def _schedule(name: str, kappa: Callable, derivative: Callable, inverse: Callable) -> Schedule:
    """Makes kappa exact at both ends.

    Rounding (2/pi * acos(0) != 1 in float32) could otherwise leave a token masked at time 1.
    """

    def pinned(t):
        t = jnp.asarray(t)
        inside = jnp.clip(kappa(t), 0.0, 1.0)
        return jnp.where(t <= 0.0, 0.0, jnp.where(t >= 1.0, 1.0, inside))

    def pinned_inverse(fraction):
        fraction = np.clip(np.asarray(fraction, np.float64), 0.0, 1.0)
        inside = np.clip(inverse(fraction), 0.0, 1.0)
        return np.where(fraction <= 0.0, 0.0, np.where(fraction >= 1.0, 1.0, inside))

    return Schedule(name=name, kappa=pinned, derivative=derivative, inverse=pinned_inverse)


def linear() -> Schedule:
    """kappa(t) = t."""
    return _schedule("linear", lambda t: t, jnp.ones_like, lambda k: k)


def quadratic() -> Schedule:
    """kappa(t) = t^2."""
    return _schedule("quadratic", jnp.square, lambda t: 2.0 * t, np.sqrt)


def root() -> Schedule:
    """kappa(t) = t^(1/2)."""
    return _schedule(
        "root", jnp.sqrt, lambda t: 0.5 / jnp.sqrt(jnp.maximum(t, SINGULARITY)), np.square
    )


def cosine() -> Schedule:
    """kappa(t) = 1 - cos(pi t / 2)."""
    return _schedule(
        "cosine",
        lambda t: 1.0 - jnp.cos(0.5 * math.pi * t),
        lambda t: 0.5 * math.pi * jnp.sin(0.5 * math.pi * t),
        lambda k: np.arccos(1.0 - k) / (0.5 * math.pi),
    )


def sine() -> Schedule:
    """kappa(t) = sin(pi t / 2)."""
    return _schedule(
        "sine",
        lambda t: jnp.sin(0.5 * math.pi * t),
        lambda t: 0.5 * math.pi * jnp.cos(0.5 * math.pi * t),
        lambda k: np.arcsin(k) / (0.5 * math.pi),
    )


def arcsin(name: str = "arcsin") -> Schedule:
    """kappa(t) = (2/pi) asin(t)."""

    def derivative(t):
        t = jnp.minimum(t, 1.0 - SINGULARITY)
        return (2.0 / math.pi) / jnp.sqrt((1.0 - t) * (1.0 + t))

    return _schedule(
        name,
        lambda t: (2.0 / math.pi) * jnp.arcsin(t),
        derivative,
        lambda k: np.sin(0.5 * math.pi * k),
    )


def arccos() -> Schedule:
    """kappa(t) = 1 - (2/pi) acos(t), computed as `arcsin`, because asin(0) is exact."""
    return arcsin("arccos")


def cubic(*, a: float = 0.0, b: float = 2.0) -> Schedule:
    """The cubic with kappa'(0) = a and kappa'(1) = b: -2t^3 + 3t^2 + a(t^3-2t^2+t) + b(t^3-t^2).

    Args:
        a: Slope at t = 0.
        b: Slope at t = 1. The defaults give t^2; a = b = 1 gives t.

    Raises:
        ValueError: if the cubic decreases somewhere on [0, 1] (it never does for a, b in [0, 3]).
    """

    def kappa(t):
        return t * (a + t * ((3.0 - 2.0 * a - b) + t * (a + b - 2.0)))

    def derivative(t):
        return a + t * (2.0 * (3.0 - 2.0 * a - b) + t * 3.0 * (a + b - 2.0))

    # The slope is a parabola; its least value on [0, 1] is at an end point or at its vertex.
    leading = 3.0 * (a + b - 2.0)
    vertex = (2.0 * a + b - 3.0) / leading if leading else 0.0
    if min(derivative(0.0), derivative(1.0), derivative(min(max(vertex, 0.0), 1.0))) < -1e-9:
        raise ValueError(f"cubic(a={a}, b={b}) decreases on [0, 1]; choose a and b in [0, 3]")
    return _schedule("cubic", kappa, derivative, lambda k: _bisect(kappa, k))


def sigmoid(*, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """The logistic curve on [start, end], rescaled to [0, 1]; the paper trains with it.

    Args:
        start: Logit at t = 0.
        end: Logit at t = 1.
        tau: Temperature; a smaller one makes the curve steeper.

    Raises:
        ValueError: if end <= start or tau <= 0.
    """
    if end <= start or tau <= 0.0:
        raise ValueError(f"sigmoid needs start < end and tau > 0, not {start=}, {end=}, {tau=}")
    low, high = (1.0 / (1.0 + math.exp(-logit / tau)) for logit in (start, end))

    def logistic(t):
        return jax.nn.sigmoid((t * (end - start) + start) / tau)

    def derivative(t):
        value = logistic(t)
        return value * (1.0 - value) * ((end - start) / tau / (high - low))

    def inverse(fraction):
        value = low + fraction * (high - low)
        return (tau * (np.log(value) - np.log1p(-value)) - start) / (end - start)

    return _schedule("sigmoid", lambda t: (logistic(t) - low) / (high - low), derivative, inverse)


def _bisect(kappa: Callable, fraction: np.ndarray) -> np.ndarray:
    """Returns the times at which an increasing `kappa` takes given values, in float64."""
    low, high = np.zeros_like(fraction), np.ones_like(fraction)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        below = kappa(middle) < fraction
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "quadratic": quadratic,
    "root": root,
    "cosine": cosine,
    "sine": sine,
    "arccos": arccos,
    "arcsin": arcsin,
    "cubic": cubic,
    "sigmoid": sigmoid,
}
