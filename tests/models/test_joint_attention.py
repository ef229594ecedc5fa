"""The exact reference: its mask, its two forms, and what reaches what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit
from flax import nnx

from maskflow_jax.models.joint_attention import JointLayer, scene_mask
from maskflow_jax.scenes.conditions import Scenes

WIDTH, PATCHES, LENGTH = 8, 2, 3


def layer(form="grouped"):
    return JointLayer(WIDTH, 2, nnx.Rngs(0), form=form)


def inputs(scene_id, num_scenes, *, full=False):
    rng = np.random.default_rng(0)
    batch, frames = scene_id.shape
    text = rng.normal(size=(batch, num_scenes, LENGTH, WIDTH)).astype(np.float32)
    video = rng.normal(size=(batch, frames, PATCHES, WIDTH)).astype(np.float32)
    lengths = np.full((batch, num_scenes, 1), LENGTH)
    if not full:
        lengths[0, 0] = 1
    return text, video, Scenes(scene_id, caption_mask=np.arange(LENGTH) < lengths)


def test_the_mask_of_three_scenes():
    """Two tokens of text and three of video a scene, written out by hand."""
    text, video = np.repeat(np.arange(3), 2), np.repeat(np.arange(3), 3)
    mask = np.asarray(scene_mask(text, video))
    assert mask.shape == (15, 15)
    rows = [
        "110000111000000",
        "110000111000000",
        "001100000111000",
        "001100000111000",
        "000011000000111",
        "000011000000111",
        *["110000111111111"] * 3,
        *["001100111111111"] * 3,
        *["000011111111111"] * 3,
    ]
    np.testing.assert_array_equal(mask, [[c == "1" for c in row] for row in rows])
    np.testing.assert_array_equal(mask, mask.T)


def test_the_mask_of_one_scene_hides_nothing():
    assert np.all(scene_mask(np.zeros(2, int), np.zeros(3, int)))


@pytest.mark.parametrize(
    "scene_id", [[[0, 0, 1, 1, 2, 2]], [[0, 1, 1, 1, 1, 2], [0, 0, 0, 2, 2, 2]]]
)
def test_grouped_equals_dense(scene_id):
    text, video, scenes = inputs(np.array(scene_id), 3)
    dense, grouped = (quick_jit(layer(form))(text, video, scenes) for form in ("dense", "grouped"))
    for one, other in zip(dense, grouped, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    everything = quick_jit(layer("dense"))(
        text, video, scenes._replace(scene_id=np.zeros_like(scene_id))
    )
    assert np.abs(everything[1] - dense[1]).max() > 1e-3


def test_one_scene_equals_plain_attention():
    text, video, scenes = inputs(np.zeros((1, 4), int), 1, full=True)
    both = quick_jit(layer())(text, video, scenes)
    # As a video of one frame without captions: all tokens attend to all.
    together = np.concatenate([text.reshape(1, -1, WIDTH), video.reshape(1, -1, WIDTH)], axis=1)
    empty = Scenes(np.zeros((1, 1), int), caption_mask=np.zeros((1, 1, 1), bool))
    plain = quick_jit(layer())(np.zeros((1, 1, 1, WIDTH), np.float32), together[:, None], empty)[1]
    np.testing.assert_allclose(
        np.concatenate([np.reshape(a, (1, -1, WIDTH)) for a in both], axis=1),
        plain[:, 0],
        atol=1e-5,
    )


@pytest.mark.parametrize("form", ["dense", "grouped"])
def test_captions_reach_other_scenes_in_the_second_layer_only(form):
    text, video, scenes = inputs(np.array([[0, 0, 1, 2, 2]]), 3, full=True)
    joint = layer(form)

    def of_scene(text, scene, depth):
        x, frames = text, jnp.asarray(video)
        for _ in range(depth):
            x, frames = joint(x, frames, scenes)
        return jnp.sum(jnp.sin(frames) * (jnp.asarray(scenes.scene_id) == scene)[:, :, None, None])

    def reached(depth):
        gradient = jax.vmap(jax.grad(lambda text, scene: of_scene(text, scene, depth)), (None, 0))
        return np.abs(quick_jit(gradient)(text, jnp.arange(3)))[:, 0].max(axis=(2, 3))

    once = reached(1)
    assert np.all(np.diag(once) > 1e-6)
    np.testing.assert_array_equal(once[~np.eye(3, dtype=bool)], 0.0)
    assert np.all(reached(2) > 1e-8)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        layer("sparse")
