"""Features: streamed in batches, kept, gone on with; clips that a network does not take."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from maskflow_jax.evaluation.features import FeatureExtractor, FeatureNetwork

NETWORK = FeatureNetwork(
    name="means",
    sha256="0" * 64,
    clip_frames=3,
    frame_size=4,
    dimensions=3,
    params={"scale": 2.0},
    apply=lambda params, clips: params["scale"] * jnp.mean(clips, axis=(1, 2, 3)),
)
CLIPS = np.random.default_rng(0).integers(0, 255, (11, 3, 4, 4, 3), dtype=np.uint8)
EXPECTED = 2 * CLIPS.mean(axis=(1, 2, 3))


def from_number(first):
    return iter(CLIPS[first:])


def test_batches_of_any_size_give_the_same_features():
    for size in (1, 4, 16):
        found = FeatureExtractor(NETWORK, size).extract(from_number, 11)
        np.testing.assert_allclose(found, EXPECTED, rtol=1e-5)
    assert FeatureExtractor(NETWORK).extract(from_number, 0).shape == (0, 3)


def test_memory_stays_flat():
    """No clip is asked for before the batch before it is done."""
    extractor, asked = FeatureExtractor(NETWORK, 2), []
    apply = extractor._apply
    extractor._apply = lambda *arguments: (asked.append(len(seen)), apply(*arguments))[1]
    seen = []
    extractor.extract(lambda first: (seen.append(i) or CLIPS[i] for i in range(first, 11)), 11)
    assert asked == [2, 4, 6, 8, 10, 11]


def test_an_interrupted_extraction_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("maskflow_jax.evaluation.features.SAVE_EVERY", 2)
    keep, extractor = tmp_path / "kept.npz", FeatureExtractor(NETWORK, 2)

    def killed(first):
        yield from CLIPS[first:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extractor.extract(killed, 11, keep=keep, key="a")
    starts = []

    def rest(first):
        starts.append(first)
        return from_number(first)

    found = extractor.extract(rest, 11, keep=keep, key="a")
    assert starts == [4]  # saved after the second of three batches
    np.testing.assert_allclose(found, EXPECTED, rtol=1e-5)
    extractor.extract(rest, 11, keep=keep, key="a")
    assert starts == [4]  # all are there
    extractor.extract(rest, 11, keep=keep, key="other")
    assert starts == [4, 0]


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (CLIPS[0][:2], "clip 0 has 2 frames, means takes 3; frames are never repeated"),
        (CLIPS[0][:, :, :3], "has frames of 4x3, means takes 4x4; frames are not resized"),
        (CLIPS[0] / 255, "is float64"),
        (CLIPS[0][..., 0], r"uint8 \(3, 4, 4\); give frames uint8 \[T, H, W, 3\]"),
    ],
)
def test_clips_of_other_forms_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        FeatureExtractor(NETWORK, 2).extract(lambda _: iter([clip]), 1)


def test_too_few_clips_and_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="11 clips came, 12 are needed"):
        FeatureExtractor(NETWORK, 4).extract(from_number, 12)
    broken = dataclasses.replace(NETWORK, params={"scale": np.nan})
    with pytest.raises(ValueError, match="features of clip 0 are not finite"):
        FeatureExtractor(broken, 4).extract(from_number, 5)
