"""Transforms choose the frames that are shown, and cut out the pixels that are asked for."""

import gc
import pickle
import weakref

import numpy as np
import pytest
from PIL import Image
from videos import greys, moving, timed

from maskflow_jax.data.preparation.frame_transforms import (
    FILTERS,
    FrameTransform,
    fit,
    transform_frames,
)
from maskflow_jax.io import video_files
from maskflow_jax.io.video_decoding import TimedFrame


def levels(frames, **settings):
    transform = FrameTransform(size=4, **settings)
    return [int(frame[0, 0, 0]) for frame in transform_frames(frames, transform)]


def video(levels, fps):
    return timed(greys(levels, 4, 4), fps)


def test_frames_of_the_same_rate_are_all_kept():
    for fps in (8, 10, 23.976, 29.97, 30, 60):
        assert levels(video(range(200), fps), fps=fps) == list(range(200))
    assert levels(video(range(20), 10)) == list(range(20))


def test_lower_rates_show_what_is_on_the_screen():
    assert levels(video(range(30), 30), fps=10) == list(range(0, 30, 3))
    expected = [int(30 * j / 8 + 1e-9) for j in range(8)]  # floor: what is shown, not the nearest
    assert levels(video(range(30), 30), fps=8) == expected


def test_higher_rates_repeat():
    assert levels(video(range(3), 10), fps=20) == [0, 0, 1, 1, 2, 2]
    assert levels(video([7], 10), fps=30) == [7, 7, 7]


def test_variable_rate_and_a_late_begin():
    starts = [5.0, 5.1, 5.9, 6.0]
    frames = [
        TimedFrame(f, s, 0.25) for f, s in zip(greys([0, 1, 2, 3], 4, 4), starts, strict=True)
    ]
    shown = [max(i for i in range(4) if starts[i] <= 5 + j / 8 + 1e-6) for j in range(10)]
    assert levels(frames, fps=8) == shown == [0, 1, 1, 1, 1, 1, 1, 1, 3, 3]


def test_a_clock_that_rounds_loses_no_frame():
    for fps, tick in ((60, 0.001), (30, 0.01), (24, 0.001), (29.97, 0.001)):
        starts = [round(i / fps / tick) * tick for i in range(150)]
        frames = [
            TimedFrame(f, s, 1 / fps, 0.5 * tick - 1e-8)
            for f, s in zip(greys(range(150), 4, 4), starts, strict=True)
        ]
        assert levels(frames, fps=fps) == list(range(150))


def test_unknown_durations():
    frames = [TimedFrame(f, i / 10, 0.0) for i, f in enumerate(greys([0, 1, 2], 4, 4))]
    assert levels(frames, fps=20) == [0, 0, 1, 1, 2, 2]
    assert levels(frames[:1], fps=20) == [0]
    assert levels([], fps=20) == []


def test_interval_and_length():
    assert levels(video(range(20), 10), frame_interval=3) == list(range(0, 20, 3))
    assert levels(video(range(30), 30), fps=10, frame_interval=2) == [0, 6, 12, 18, 24]
    assert levels(video(range(20), 10), frame_interval=2, max_frames=3) == [0, 2, 4]
    assert FrameTransform(size=4, fps=8, frame_interval=2).rate(30) == 4
    assert FrameTransform(size=4, frame_interval=3).rate(30) == 10


def test_memory_does_not_grow_with_the_video():
    alive, most = set(), 0

    def endless():
        nonlocal most
        for index in range(500):
            frame = np.full((8, 8, 3), index % 256, np.uint8)
            alive.add(index)
            weakref.finalize(frame, alive.discard, index)
            most = max(most, len(alive))
            yield TimedFrame(frame, index / 30, 1 / 30)
            del frame

    gc.collect()
    count = sum(1 for _ in transform_frames(endless(), FrameTransform(size=4, fps=8)))
    assert count == 134
    assert most <= 4


@pytest.mark.parametrize("shape", [(24, 32), (33, 21), (16, 16), (7, 50)])
@pytest.mark.parametrize("size", [16, 40])
def test_default_is_the_middle_square_as_when_sampling_from_a_file(shape, size):
    frame = moving(1, *shape)[0]
    expected = video_files.square_frames(frame[None], size)[0]
    np.testing.assert_array_equal(fit(frame, FrameTransform(size=size)), expected)


def test_crop_and_shortest_side():
    frame = moving(1, 40, 60)[0]
    exact = fit(frame, FrameTransform(size=16, crop=(3, 5, 16, 16)))
    np.testing.assert_array_equal(exact, frame[5:21, 3:19])
    middle = fit(frame, FrameTransform(size=16, shortest_side=40))
    np.testing.assert_array_equal(middle, frame[12:28, 22:38])
    half = fit(frame, FrameTransform(size=16, shortest_side=20, downsample="box"))
    whole = Image.fromarray(frame).resize((30, 20), Image.Resampling.BOX)
    np.testing.assert_array_equal(half, np.asarray(whole)[2:18, 7:23])
    third = fit(frame, FrameTransform(size=15, shortest_side=19))  # 31.6 source pixels
    whole = np.asarray(Image.fromarray(frame).resize((28, 19), Image.Resampling.BOX))
    assert np.abs(third.astype(int) - whole[2:17, 6:21]).mean() < 8
    with pytest.raises(ValueError, match="does not lie in a frame of 60x40"):
        fit(frame, FrameTransform(size=16, crop=(50, 0, 16, 16)))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_pillows(name):
    frame = moving(1, 20, 20)[0]
    for size, settings in ((31, {"upsample": name}), (9, {"downsample": name})):
        expected = Image.fromarray(frame).resize((size, size), FILTERS[name])
        np.testing.assert_array_equal(fit(frame, FrameTransform(size=size, **settings)), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"frame_interval": 0}, "frame_interval is 0"),
        ({"min_frames": 9, "max_frames": 8}, "below min_frames"),
        ({"shortest_side": 3}, "choose 4 or more"),
        ({"crop": (0, 0, 0, 4)}, "left, top, width, height"),
        ({"crop": (0, 0, 4)}, "left, top, width, height"),
        ({"upsample": "magic"}, "'magic' is unknown.*bicubic"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        FrameTransform(**{"size": 4, **settings})


def test_settings_are_recorded_and_travel():
    transform = FrameTransform(size=4, crop=(1, 2, 3, 4))
    assert transform.describe()["crop"] == [1, 2, 3, 4]
    assert pickle.loads(pickle.dumps(transform)) == transform
