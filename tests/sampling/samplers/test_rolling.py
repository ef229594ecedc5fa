"""Rolling diffusion: the windows of its plan, the matrices of its stages, and the driver."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskflow_jax.sampling.rollout import rollout
from maskflow_jax.sampling.samplers.rolling import Rolling, RollingPlan, rolling_matrices
from maskflow_jax.sampling.types import RolloutRequest, Window, WindowTokens

MASK = 1000


def make_plan(length, k, m, nfe=(1, 1, 1)):
    start, shift, finish = nfe
    return RollingPlan(
        video_length=length,
        chunk_size=k,
        context_frames=m,
        start_nfe=start,
        shift_nfe=shift,
        finish_nfe=finish,
    )


def test_windows_and_passes():
    plan = make_plan(8, 5, 2, (10, 4, 7))
    shift = Window(2, finished=1, carried=2, stage="shift")
    assert plan.windows == (
        Window(2, finished=0, carried=3, stage="start"),
        *[shift] * 3,
        Window(2, finished=3, stage="finish"),
    )
    assert plan.num_chunks == 5
    assert plan.nfe == 10 + 3 * 4 + 7
    assert "in 3 shifts, NFE 10 + 3 x 4 + 7 = 29" in str(plan)
    assert plan.known_at_start == 2


@pytest.mark.parametrize(("length", "k", "m"), [(3, 5, 2), (5, 5, 2), (6, 5, 4), (9, 3, 0)])
def test_every_frame_is_finished_once(length, k, m):
    windows = make_plan(length, k, m).windows
    assert m + sum(window.finished for window in windows) == length
    assert [window.stage for window in windows[:1] + windows[-1:]] == ["start", "finish"]
    assert all(w.context + w.finished + w.carried <= k for w in windows)


@pytest.mark.parametrize(("k", "m"), [(16, 2), (36, 12), (16, 15), (7, 0), (10, 3)])
@pytest.mark.parametrize("num_steps", [1, 5, 250])
def test_each_stage_begins_where_the_one_before_ended(k, m, num_steps):
    """Bit for bit, once the window has moved on by the frame that was finished."""
    start, shift, finish = rolling_matrices(num_steps, k, m).values()
    assert [len(times) - 1 for times in (start, shift, finish)] == [
        num_steps,
        -(-num_steps // (k - m)),
        num_steps,
    ]
    assert {times.dtype for times in (start, shift, finish)} == {np.dtype(np.float32)}
    moved = np.append(shift[-1, 1:], np.float32(0.0))
    for after in (shift, finish):
        np.testing.assert_array_equal(after[0], start[-1])
        np.testing.assert_array_equal(after[0], moved)
    np.testing.assert_array_equal(start[0], np.where(np.arange(k) < m, 1.0, 0.0))
    np.testing.assert_array_equal(shift[-1, : m + 1], 1.0)
    np.testing.assert_array_equal(finish[-1], 1.0)
    for times in (start, shift, finish):
        assert np.all(np.diff(times, axis=0) >= 0.0)


class Worker:
    """Finishes frames as numbers that count on, and others to a half: their left token.

    The window's layout is [frames before, new frames], one row of two tokens per frame.
    """

    def __init__(self, first):
        self.first, self.seen = first, []

    def __call__(self, index, tokens, known, window):
        tokens, known = np.array(tokens), np.asarray(known)
        self.seen.append((tokens.copy(), known, window))
        begin = self.first - window.context
        self.first += window.finished
        for place in range(window.context, tokens.shape[1]):
            finished = place < window.context + window.finished or window.stage == "finish"
            half = place < tokens.shape[1] - (window.stage == "start")
            for column in range(2 if finished else int(half)):
                mine = tokens[:, place, 0, column]
                mine[mine == MASK] = begin + place
        return tokens


def run(plan, given=None):
    worker = Worker(plan.known_at_start)
    context = jnp.broadcast_to(
        jnp.arange(plan.known_at_start)[None, :, None, None], (2, plan.known_at_start, 1, 2)
    )
    chunks = list(rollout(context, plan, worker, mask_id=MASK, given=given))
    assert [c.shape[1] for c in chunks] == [window.finished for window in plan.windows]
    return np.concatenate(chunks, axis=1), worker.seen


@pytest.mark.parametrize(
    ("length", "k", "m"), [(9, 5, 2), (5, 5, 2), (3, 5, 2), (8, 3, 0), (7, 4, 3), (2, 3, 0)]
)
def test_frames_come_in_order_each_once(length, k, m):
    """A video shorter than the window, one of its length, longer ones, and none with context."""
    video, seen = run(make_plan(length, k, m))
    np.testing.assert_array_equal(video[1, :, 0, 1], np.arange(m, length))
    np.testing.assert_array_equal(video[0, :, 0, 0], np.arange(m, length))
    done = m
    for tokens, known, window in seen:
        assert tokens.shape == (2, k, 1, 2)
        np.testing.assert_array_equal(known[0, :, 0, 0], np.arange(k) < m)
        np.testing.assert_array_equal(tokens[0, :m, 0, 0], np.arange(done - m, done))
        done += window.finished


def test_half_revealed_frames_move_on_as_they_are():
    _, seen = run(make_plan(9, 5, 2))
    frame = np.arange(5)
    for index, (tokens, known, window) in enumerate(seen):
        if window.stage == "start":
            assert np.all(tokens[:, 2:] == MASK)
            continue
        begin = index - 1  # the number of shifts before this window
        left = np.where(frame < 4, begin + frame, MASK)  # the last one has just come in
        np.testing.assert_array_equal(tokens[1, :, 0, 0], left)
        np.testing.assert_array_equal(tokens[1, 2:, 0, 1], MASK)
        assert not known[:, 2:].any()  # revealed, but not given


def test_given_tokens_in_the_window_survive():
    tokens = np.full((2, 9, 1, 2), MASK)
    known = np.zeros(tokens.shape, bool)
    known[:, 4, 0, 0], known[:, 8] = True, True
    tokens[known] = 77
    video, seen = run(make_plan(9, 5, 2), WindowTokens(tokens, known))
    np.testing.assert_array_equal(video[known[:, 2:]], 77)
    np.testing.assert_array_equal(video[0, :, 0, 1], [2, 3, 4, 5, 6, 7, 77])
    begin = 0
    for window_tokens, window_known, window in seen:
        context = np.arange(5)[:, None, None] < 2
        inside = known[:, begin : begin + 5]
        np.testing.assert_array_equal(window_known, inside | context)
        free = inside & ~context
        np.testing.assert_array_equal(window_tokens[free], 77)
        begin += window.finished


def test_a_carried_frame_that_is_no_frame_is_refused():
    def spoil(index, tokens, known, window):
        return jnp.where(known, tokens, MASK).at[0, -1].set(MASK + 1)

    chunks = rollout(jnp.zeros((1, 2, 1, 2)), make_plan(9, 5, 2), spoil, mask_id=MASK)
    with pytest.raises(ValueError, match="chunk 0 holds 2 tokens"):
        next(chunks)


def test_a_frame_that_leaves_with_a_mask_is_refused():
    chunks = rollout(
        jnp.zeros((1, 2, 1, 2), jnp.int32),
        make_plan(9, 5, 2),
        lambda index, tokens, known, window: tokens,
        mask_id=MASK,
    )
    assert next(chunks).shape == (1, 0, 1, 2)  # the start finishes nothing
    with pytest.raises(ValueError, match="chunk 1 holds 2 tokens"):
        next(chunks)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((9, 5, -1), "use 0 to generate without context"),
        ((9, 5, 5), "lower context_frames"),
        ((2, 5, 2), "raise length"),
        ((9, 5, 2, (1, 0, 1)), "raise num_steps"),
    ],
)
def test_plans_that_cannot_work_are_refused(numbers, message):
    with pytest.raises(ValueError, match=rf"length {numbers[0]} cannot be reached.*{message}"):
        make_plan(*numbers)


def test_rolling_takes_no_stride_and_its_whole_context():
    config = Rolling()
    numbers = {"video_length": 32, "chunk_size": 16, "context_frames": 2}
    for change in ({"stride": 2}, {"known_frames": 0}):
        with pytest.raises(ValueError, match="set context_frames to 0"):
            config.plan(RolloutRequest(**numbers, **change))
    with pytest.raises(ValueError, match="lower context_frames"):
        config.plan(RolloutRequest(video_length=32, chunk_size=16, context_frames=16))
    assert config.plan(RolloutRequest(**numbers, stride=1)) == config.plan(
        RolloutRequest(**numbers)
    )


def test_matrices_need_a_step_and_a_new_frame():
    with pytest.raises(ValueError, match="at least one step"):
        rolling_matrices(0, 5, 2)
    with pytest.raises(ValueError, match="lower context_frames"):
        rolling_matrices(3, 5, 5)
