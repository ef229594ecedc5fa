"""Rollout: the arithmetic of Algorithm 2, and a driver that feeds back exactly what it kept."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule, quick_jit, random_tokens, sample_keys

from maskflow_jax.sampling.frame_schedules import full_sequence
from maskflow_jax.sampling.plans import EndlessPlan, RolloutPlan
from maskflow_jax.sampling.rollout import rollout
from maskflow_jax.sampling.samplers import FM
from maskflow_jax.sampling.types import Proposal, WindowTokens
from maskflow_jax.sampling.window import sample_window

H, W, MASK = 1, 2, 10_000


def make_plan(length, k, m, stride, nfe=1):
    return RolloutPlan(
        video_length=length, chunk_size=k, context_frames=m, stride=stride, nfe_per_chunk=nfe
    )


@pytest.mark.parametrize(
    ("length", "k", "m", "stride", "chunks", "mgm_nfe"),
    [
        (32, 16, 2, 14, 3, 60),
        (80, 16, 2, 14, 6, 120),
        (160, 16, 2, 14, 12, 240),
        (32, 16, 15, 1, 17, 340),
        (80, 16, 15, 1, 65, 1300),
        (160, 16, 15, 1, 145, 2900),
        (72, 36, 12, 24, 3, 60),
        (180, 36, 12, 24, 7, 140),
        (72, 36, 35, 1, 37, 740),
        (180, 36, 35, 1, 145, 2900),
    ],
)
def test_the_papers_table(length, k, m, stride, chunks, mgm_nfe):
    plan = make_plan(length, k, m, stride, nfe=20)
    assert plan.num_chunks == chunks == math.ceil((length - k) / stride) + 1
    assert plan.nfe == mgm_nfe
    assert make_plan(length, k, m, stride, nfe=250).nfe == 250 * chunks


def test_fm_nfe_of_the_papers_table():
    assert [make_plan(n, 16, 2, 14, nfe=250).nfe for n in (32, 80, 160)] == [750, 1500, 3000]


def chunks(plan):
    return tuple((window.context, window.finished) for window in plan.windows)


def test_the_last_chunk_takes_more_context():
    assert chunks(make_plan(32, 16, 2, 14)) == ((2, 14), (2, 14), (14, 2))
    assert chunks(make_plan(20, 16, 2, 5)) == ((2, 5), (2, 5), (2, 5), (13, 3))
    assert chunks(make_plan(10, 16, 2, 14)) == ((2, 8),)  # capped by what there is
    assert chunks(make_plan(16, 16, 0, 16)) == ((0, 16),)
    assert chunks(make_plan(40, 16, 0, 16)) == ((0, 16), (0, 16), (8, 8))


def test_with_fewer_known_frames_the_first_chunk_keeps_more():
    def from_nothing(length, k, m, stride, known=0):
        return chunks(
            RolloutPlan(
                video_length=length,
                chunk_size=k,
                context_frames=m,
                stride=stride,
                nfe_per_chunk=1,
                known_frames=known,
            )
        )

    assert from_nothing(32, 16, 2, 14) == ((0, 16), (2, 14), (14, 2))
    assert from_nothing(18, 16, 15, 1) == ((0, 16), (15, 1), (15, 1))  # autoregressive
    assert from_nothing(32, 16, 2, 14, known=1) == ((1, 15), (2, 14), (14, 2))
    assert from_nothing(12, 16, 2, 14) == ((0, 12),)
    with pytest.raises(ValueError, match="known_frames 3 is not between 0 and the context, 2"):
        from_nothing(32, 16, 2, 14, known=3)


@pytest.mark.parametrize(("k", "m", "stride"), [(16, 4, 12), (16, 4, 5), (16, 4, 1), (8, 2, 6)])
@pytest.mark.parametrize("known_frames", [0, None])
def test_the_frames_before_a_known_end_are_made_by_a_window_that_sees_it(
    k, m, stride, known_frames
):
    for length in range(2 * m + 1, 70):
        plan = RolloutPlan(
            video_length=length,
            chunk_size=k,
            context_frames=m,
            stride=stride,
            nfe_per_chunk=1,
            known_frames=known_frames,
            known_tail=m,
        )
        done = plan.known_at_start
        assert sum(window.finished for window in plan.windows) == length - done
        for window in plan.windows:
            begin = done - window.context
            assert begin >= 0
            assert window.context + window.finished <= k
            assert window.finished <= stride + m - min(done, m) or window is plan.windows[-1]
            done += window.finished
            last_unknown = length - m - 1
            if done > last_unknown >= done - window.finished:  # it makes the last missing frame
                assert begin + k >= length
        # No window is spent on known frames alone.
        assert done - plan.windows[-1].finished <= last_unknown


def test_a_known_end_needs_room_in_the_window():
    with pytest.raises(ValueError, match="no room for a new frame before the 8"):
        RolloutPlan(
            video_length=40,
            chunk_size=16,
            context_frames=8,
            stride=8,
            nfe_per_chunk=1,
            known_tail=8,
        )


def test_a_shorter_stride_takes_more_chunks_than_the_closed_form():
    plan = make_plan(32, 16, 2, 7)
    assert plan.num_chunks == math.ceil((32 - 2) / 7) == 5
    assert plan.num_chunks > math.ceil((32 - 16) / 7) + 1


PLANS = [
    (length, k, m, stride)
    for length, k, m in itertools.product((4, 9, 23), (4, 7), (0, 1, 3))
    for stride in range(1, k - m + 1)
    if length > m
]
WITH_CONTEXT = [numbers for numbers in PLANS if numbers[2] > 0]


@pytest.mark.parametrize("numbers", PLANS)
def test_every_plan_covers_the_video_once(numbers):
    length, k, m, stride = numbers
    plan = make_plan(*numbers)
    assert m + sum(window.finished for window in plan.windows) == length
    assert all(1 <= w.finished <= stride and w.context + w.finished <= k for w in plan.windows)
    assert all(window.context == m for window in plan.windows[:-1])
    assert all((w.carried, w.stage) == (0, "chunk") for w in plan.windows)
    assert plan.windows[-1].context >= m
    assert plan.num_chunks == math.ceil((length - m) / stride)


def count_up(index, tokens, known, window=None):
    """Continues 0, 1, 2, ... from the last known frame; frames are numbered from 1 without any."""
    num_known = jnp.sum(known[:, :, 0, 0], axis=1)
    last = jnp.where(num_known > 0, tokens[jnp.arange(len(tokens)), num_known - 1, 0, 0], 0)
    frame = jnp.arange(tokens.shape[1])
    frames = last[:, None] + 1 + frame - num_known[:, None]
    return jnp.where(known, tokens, frames[:, :, None, None])


def frames_of(numbers):
    return jnp.broadcast_to(
        jnp.asarray(numbers, jnp.int32)[None, :, None, None], (2, len(numbers), H, W)
    )


@pytest.mark.parametrize("numbers", [*WITH_CONTEXT[::10], (32, 16, 2, 14)])
def test_the_video_continues_from_what_was_kept(numbers):
    plan = make_plan(*numbers)
    seen = []

    def spy(index, tokens, known, window=None):
        frames_known = np.asarray(known)[0, :, 0, 0]
        seen.append(np.asarray(tokens)[0, frames_known, 0, 0])
        assert tokens.shape == known.shape == (2, plan.chunk_size, H, W)
        assert np.all(np.asarray(tokens)[~np.asarray(known)] == MASK)
        return count_up(index, tokens, known)

    m = plan.context_frames
    chunks = list(rollout(frames_of(range(m)), plan, spy, mask_id=MASK))
    assert [chunk.shape for chunk in chunks] == [(2, w.finished, H, W) for w in plan.windows]
    video = np.concatenate(chunks, axis=1)
    np.testing.assert_array_equal(video[1, :, 0, 1], np.arange(m, plan.video_length))
    done = m
    for context, (num_context, kept, _, _) in zip(seen, plan.windows, strict=True):
        np.testing.assert_array_equal(context, np.arange(done - num_context, done))
        done += kept


def test_without_context_chunks_are_independent_until_the_last():
    plan = make_plan(10, 4, 0, 4)
    context = jnp.zeros((2, 0, H, W), jnp.int32)
    video = np.concatenate(list(rollout(context, plan, count_up, mask_id=MASK)), axis=1)
    np.testing.assert_array_equal(video[0, :, 0, 0], [1, 2, 3, 4, 1, 2, 3, 4, 5, 6])


def test_chunks_are_sampled_when_asked_for_with_their_own_numbers():
    plan, calls = make_plan(9, 4, 2, 2), []

    def sample_chunk(index, tokens, known, window=None):
        calls.append(index)
        return count_up(index, tokens, known)

    chunks = rollout(frames_of(range(2)), plan, sample_chunk, mask_id=MASK)
    assert not calls
    for index, _ in enumerate(chunks):
        assert calls == list(range(index + 1))
    assert len(calls) == plan.num_chunks == 4


def test_an_endless_plan_goes_on_from_its_second_window():
    """The first window starts from nothing; the others have their context."""
    first = RolloutPlan(
        video_length=12, chunk_size=4, context_frames=2, stride=2, nfe_per_chunk=1, known_frames=0
    )
    plan = EndlessPlan(plan=first)
    context = np.zeros((2, 0, H, W), np.int32)
    chunks = itertools.islice(rollout(context, plan, count_up, mask_id=MASK), 40)
    video = np.concatenate(list(chunks), axis=1)
    np.testing.assert_array_equal(video[1, :, 0, 0], 1 + np.arange(4 + 39 * 2))


@pytest.fixture(scope="module")
def sample_with_flow_matching():
    """A real sampler around a stub network that depends on all tokens of its sample."""

    def propose(keys, x, step):
        keys = jax.vmap(jax.random.fold_in)(keys, jnp.sum(x, axis=(1, 2, 3)))
        tokens = random_tokens(keys, x.shape[1:], MASK)
        return Proposal(tokens, jnp.zeros(x.shape))

    sample = quick_jit(
        lambda keys, tokens, known: sample_window(
            keys,
            WindowTokens(tokens, known),
            full_sequence(3, 4),
            propose,
            FM().step,
            mask_id=MASK,
            schedule=make_schedule("linear"),
        )[0]
    )

    def for_keys(keys):
        def sample_chunk(index, tokens, known, window):
            keys_here = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
            return sample(keys_here, tokens, known)

        return sample_chunk

    return for_keys


def test_a_video_does_not_depend_on_its_batch(sample_with_flow_matching):
    plan, keys = make_plan(9, 4, 2, 2), sample_keys(4, 3)
    context = jax.random.randint(jax.random.key(0), (3, 2, H, W), 0, MASK)

    def videos(rows):
        sample_chunk = sample_with_flow_matching(keys[rows])
        chunks = rollout(context[rows], plan, sample_chunk, mask_id=MASK)
        return np.concatenate(list(chunks), axis=1)

    together = videos(slice(None))
    assert together.shape == (3, 7, H, W)
    np.testing.assert_array_equal(videos(slice(1, 2))[0], together[1])
    np.testing.assert_array_equal(videos(slice(None)), together)
    assert len(np.unique(together)) > 30


@pytest.mark.parametrize("bad", [MASK, MASK + 1, -1])
def test_a_chunk_with_tokens_that_are_no_codebook_entry_is_refused(bad):
    def sample_chunk(index, tokens, known, window=None):
        first = jnp.all(tokens[:, 0] == 0)  # only the second chunk is spoilt, in a dropped frame
        good = count_up(index, tokens, known)
        return jnp.where(first, good, good.at[0, -1, 0, 0].set(bad))

    chunks = rollout(frames_of([0, 1]), make_plan(20, 6, 2, 2), sample_chunk, mask_id=MASK)
    next(chunks)
    with pytest.raises(ValueError, match=r"chunk 1 holds 1 tokens outside 0\.\.9999"):
        next(chunks)


def test_a_bad_context_is_refused_at_once():
    plan = make_plan(9, 4, 2, 2)
    with pytest.raises(ValueError, match="m = 2 known frames"):
        rollout(frames_of([0, 1, 2]), plan, count_up, mask_id=MASK)
    with pytest.raises(ValueError, match="the context holds 4 tokens"):
        rollout(frames_of([0, MASK]), plan, count_up, mask_id=MASK)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((100, 16, 18, 1, 20), "chunk_size 16, context 18 >= chunk_size; lower context_frames"),
        ((100, 16, 16, 1, 20), "lower context_frames"),
        ((100, 16, -1, 1, 20), "use 0"),
        ((100, 16, 2, 0, 20), "never advances"),
        ((100, 16, 2, 15, 20), "use 1 to 14"),
        ((1, 16, 2, 14, 20), "raise length"),
        ((2, 16, 2, 14, 20), "raise length"),
        ((100, 16, 2, 14, 0), "at least one network evaluation"),
    ],
)
def test_plans_that_cannot_work_are_refused(numbers, message):
    with pytest.raises(ValueError, match=f"length {numbers[0]} cannot be reached") as error:
        make_plan(*numbers)
    assert message in str(error.value)


def test_every_reason_is_named():
    with pytest.raises(ValueError, match=r"never advances.*network evaluation"):
        make_plan(100, 16, 2, 0, 0)


def test_a_plan_describes_itself_in_one_line():
    assert str(make_plan(32, 16, 2, 14, nfe=20)) == (
        "32 frames from 2 in 3 chunks of 16, stride 14 (last: context 14, keeps 2), NFE 3 x 20 = 60"
    )
    assert len({make_plan(32, 16, 2, 14), make_plan(32, 16, 2, 14)}) == 1
