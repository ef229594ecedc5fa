"""Reading sources of videos in tests."""

import pickle

import numpy as np

from maskflow_jax.data.preparation.decoding import Outcome, decode_item
from maskflow_jax.data.preparation.frame_transforms import FrameTransform


def read(source, item):
    timed = list(source.open(item))
    return np.stack([frame.pixels for frame in timed]), [frame.start for frame in timed]


def failure(source, item):
    *_, outcome = decode_item(source, item, FrameTransform(size=8), 8)
    assert isinstance(outcome, Outcome)
    return outcome.failure


def by_id(source):
    assert pickle.loads(pickle.dumps(source)) == source
    return {item.id: item for item in source.listing().items}
