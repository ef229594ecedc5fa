"""Tasks from end to end, with a network that counts: token = frame's number + place in the frame.

It reads the number of the first frame off any token that it is shown, at the places where it is
shown them. Given the frames in another order, or at other places, it would go on wrongly.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from distributions import window_sampler
from flax import nnx
from tiny import quick_compilation

from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.tasks import TaskRequest, make_task

K, WINDOW, CONTEXT, GRID = 128, 5, 2, (2, 3)
FIRST = 20  # number of the first real frame
LENGTHS = [4, WINDOW, 6, 4 * WINDOW]  # shorter than the window, as long, and longer


def video(first, length):
    """[2, length, h, w], the second video 30 frames later."""
    numbers = first + 30 * np.arange(2)[:, None] + np.arange(length)
    return (numbers[:, :, None, None] + np.arange(6).reshape(GRID)).astype(np.int32)


class CountingUp(nnx.Module):
    """What is not shown goes on in order; if nothing is shown, from 0."""

    mask_id = K

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def features(self, x, t, *, positions, num_wanted=None):
        order = np.argsort(positions)
        places = jnp.asarray(video(0, x.shape[1])[0])
        first = jnp.max(jnp.where(x[:, order] < K, x[:, order] - places, 0), axis=(1, 2, 3))
        features = (first[:, None] + positions)[:, :, None, None]  # [B, T, 1, 1]
        return features if num_wanted is None else features[:, -num_wanted:]

    def logits(self, features):
        wanted = features[:, :, 0, 0, None, None] + jnp.arange(6).reshape(GRID)
        return self.scale[...] * (wanted[..., None] == jnp.arange(K))


def request(length, sampler="mgm", **changes):
    settings = {
        "sampler": SAMPLERS[sampler](num_steps=2),
        "length": length,
        "chunk_size": WINDOW,
        "context_frames": CONTEXT,
        "grid": GRID,
        "box": (0.0, 0.4, 1.0, 0.2),  # the middle column
    }
    return TaskRequest(**settings | changes)


@functools.cache
def compiled(sampler, context_frames, backward):
    graphdef, params = nnx.split(CountingUp())
    settings = {"num_steps": sampler.num_steps, "decoding_temperature": 0.0}
    around = {"context_frames": context_frames, "mask_id": K, "backward": backward}
    return WindowProgram(graphdef, window_sampler(sampler.name, **settings), **around), params


def run(task, asked, real):
    """The job, its raw tokens in the order of sampling, and its result."""
    job = make_task(task, asked)
    assert real.shape[1] >= job.source_frames
    program, params = compiled(asked.sampler, asked.context_frames, job.backward)
    context, given = job.inputs(real[:, : job.source_frames])
    with quick_compilation():
        chunks = program.sample_videos(params, context, job.plan, seed=0, given=given)
        raw = np.concatenate([context, *chunks], axis=1)
    result = job.finish(raw)
    assert result.shape == (2, asked.length, *GRID)
    assert job.finish(job.known).shape == (asked.length, *GRID)
    known = np.broadcast_to(job.known, raw.shape)
    np.testing.assert_array_equal(raw[known], job.place(real[:, : job.source_frames])[known])
    return job, raw, result


@pytest.mark.parametrize("length", LENGTHS)
def test_prediction_goes_on_from_the_first_frames(length):
    job, _, result = run("prediction", request(length), video(FIRST, CONTEXT))
    assert job.source_frames == CONTEXT
    np.testing.assert_array_equal(result, video(FIRST, length))


@pytest.mark.parametrize("length", LENGTHS)
def test_backward_makes_what_came_before_in_true_order(length):
    job, _, result = run("backward", request(length), video(FIRST, CONTEXT))
    assert job.source_frames == CONTEXT
    np.testing.assert_array_equal(result, video(FIRST + CONTEXT - length, length))
    known = job.finish(job.known)
    np.testing.assert_array_equal(known.all(axis=(1, 2)), np.arange(length) >= length - CONTEXT)


@pytest.mark.parametrize("length", [5, 6, 20])
@pytest.mark.parametrize("sampler", ["mgm", "rolling"])
def test_inbetween_keeps_both_ends(sampler, length):
    """The last frames of this video are other ones: they stay, and only their window sees them."""
    real = video(FIRST, length)
    real[:, -CONTEXT:] -= 10
    _, _, result = run("inbetween", request(length, sampler), real)
    np.testing.assert_array_equal(result[:, -CONTEXT:], real[:, -CONTEXT:])
    np.testing.assert_array_equal(result[:, :-CONTEXT], video(FIRST, length - CONTEXT))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_loop_ends_where_it_began(length):
    """The frame after the last is the first."""
    job, raw, result = run("loop", request(length), video(FIRST, CONTEXT))
    assert job.source_frames == CONTEXT
    np.testing.assert_array_equal(raw[:, length:], video(FIRST, CONTEXT))
    np.testing.assert_array_equal(result, raw[:, :length])
    np.testing.assert_array_equal(result, video(FIRST, length))


@pytest.mark.parametrize("length", [2, *LENGTHS])
def test_inpainting_keeps_all_outside_the_box(length):
    real = video(FIRST, length)
    spoilt = real.copy()
    spoilt[..., 1] = 0
    job, _, result = run("inpaint", request(length), spoilt)
    assert job.known.mean() == pytest.approx(2 / 3)
    np.testing.assert_array_equal(result, real)


@pytest.mark.parametrize("length", [1, *LENGTHS])
def test_unconditional_begins_from_nothing(length):
    job, _, result = run("unconditional", request(length), video(FIRST, 0))
    assert job.source_frames == 0
    assert not job.known.any()
    np.testing.assert_array_equal(result, np.broadcast_to(video(0, length)[:1], result.shape))


@pytest.mark.parametrize(
    ("task", "length", "changes", "message"),
    [
        ("prediction", 2, {}, "leaves no frame to generate; raise length"),
        ("backward", 1, {}, "raise length"),
        ("prediction", 9, {"context_frames": 5}, "lower context_frames"),
        ("prediction", 9, {"stride": 4}, "use 1 to 3"),
        ("inbetween", 4, {}, "leave at least one to make"),
        ("inbetween", 2, {}, "raise length"),
        ("inbetween", 9, {"context_frames": 3}, "lower context_frames"),
        ("loop", 2, {}, "leave at least one to make"),
        ("loop", 9, {"context_frames": 0}, "set context_frames to 1"),
        ("inbetween", 9, {"context_frames": 0}, "set context_frames to 1"),
        ("inpaint", 0, {}, "raise length"),
        ("inpaint", 9, {"box": (0.5, 0.5, 0.6, 0.1)}, "must lie in the frame"),
        ("unconditional", 0, {}, "raise length"),
        ("unconditional", 9, {"sampler": "rolling"}, "context_frames to 0"),
        ("outpaint", 9, {}, "choose one of prediction, backward"),
    ],
)
def test_impossible_tasks_are_refused(task, length, changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(task, request(length, **changes))


def test_inpainting_takes_any_mask():
    known = np.ones((6, *GRID), bool)
    known[2:4, 0, 1] = known[5] = False
    asked = request(6)
    real = video(FIRST, 6)
    job, _, result = run(
        "inpaint", dataclasses.replace(asked, known=known), np.where(known, real, 0)
    )
    np.testing.assert_array_equal(job.known, known)
    np.testing.assert_array_equal(result, real)
    for wrong, message in ((known[:5], "must be"), (np.ones_like(known), "leave one to generate")):
        with pytest.raises(ValueError, match=message):
            make_task("inpaint", dataclasses.replace(asked, known=wrong))
