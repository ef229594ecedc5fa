"""Halton order: permutations that spread a frame's tokens evenly, and exact counts per frame."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit, sample_keys

from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.samplers.halton import Halton, halton_order
from maskflow_jax.sampling.samplers.mgm import COUNTS, unmask_counts
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.window import sample_window

GRIDS = [(1, 1), (1, 7), (7, 1), (5, 3), (8, 8), (32, 32)]


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_every_order_is_a_permutation(height, width):
    order = halton_order(36, height, width)
    assert order.shape == (36, height * width)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order, axis=1), [np.arange(height * width)] * 36)


@pytest.mark.parametrize("grid", [(8, 8), (32, 32), (5, 3)])
def test_frames_have_orders_of_their_own(grid):
    order = halton_order(16, *grid)
    assert len(np.unique(order, axis=0)) == 16
    # The tokens that all frames uncover first are spread over the frame, too.
    assert len(np.unique(order[:, 0])) >= 8


def discrepancies(order, side):
    """For the first n cells of a frame, the worst error of a share in a box [0, a) x [0, b)."""
    visited = np.zeros((side, side))
    area = np.outer(np.arange(1, side + 1), np.arange(1, side + 1)) / side**2
    errors = []
    for n, cell in enumerate(order, start=1):
        visited[divmod(cell, side)] = 1.0
        boxes = visited.cumsum(axis=0).cumsum(axis=1)
        errors.append(np.abs(boxes - n * area).max())  # in tokens
    return np.array(errors)


@pytest.mark.parametrize(("side", "share"), [(8, 0.95), (32, 0.6)])
def test_the_first_cells_are_even_however_many(side, share):
    """In every frame: more so than the best of twenty random orders."""
    rng = np.random.default_rng(0)
    random = min(discrepancies(rng.permutation(side**2), side).mean() for _ in range(20))
    for frame in halton_order(5, side, side):
        errors = discrepancies(frame, side)
        assert errors.mean() < share * random
        assert errors[: side**2 // 4].max() < 6.0


def test_the_first_cells_are_far_apart():
    """The first 16 of 32 x 32, which would be 8 apart in a square lattice."""
    for frame in halton_order(5, 32, 32):
        cells = np.stack(np.divmod(frame[:16], 32), -1)
        apart = np.linalg.norm(cells[:, None] - cells[None], axis=-1)[~np.eye(16, dtype=bool)]
        assert apart.min() > 4.0


def run(rule, num_steps, known):
    tokens = jnp.zeros(known.shape, jnp.int32)

    def propose(keys, x, step):
        return Proposal(jnp.zeros_like(x), jnp.full(x.shape, jnp.nan))

    return quick_jit(
        lambda keys: sample_window(
            keys,
            WindowTokens(tokens, known),
            full_sequence(num_steps, known.shape[1]),
            propose,
            rule,
            mask_id=1,
        )
    )(sample_keys(0, len(known)))


@pytest.mark.parametrize("counts", ["arccos", "constant"])
def test_each_frame_reveals_its_count_in_its_order(counts):
    """With from none to all of a frame known, whatever the confidences."""
    assert counts in COUNTS
    known = (
        jax.random.uniform(jax.random.key(0), (4, 5, 4, 6))
        < jnp.array([0.0, 0.3, 0.7, 0.9, 1.1])[:, None, None]
    )
    _, reveal_step = run(Halton(num_steps=7, counts=counts).step, 7, known)
    order = halton_order(5, 4, 6)
    for sample, frame in itertools.product(range(4), range(5)):
        steps = np.ravel(reveal_step[sample, frame])
        np.testing.assert_array_equal(steps == -1, np.ravel(known[sample, frame]))
        revealed = steps[order[frame]]
        revealed = revealed[revealed >= 0]
        assert np.all(np.diff(revealed) >= 0)
        expected = unmask_counts(jnp.array([len(revealed)]), 7, counts)[0]
        np.testing.assert_array_equal(np.bincount(revealed, minlength=7), expected)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_steps is 0"):
        Halton(num_steps=0)
    with pytest.raises(ValueError, match="arccos"):
        Halton(num_steps=5, counts="tan")
    with pytest.raises(ValueError, match="plans 5 steps, the matrix of times has 4"):
        run(Halton(num_steps=5).step, 4, jnp.zeros((1, 1, 2, 2), bool))
