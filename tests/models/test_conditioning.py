"""Frames see the condition of their own scene, and a network without conditions is unchanged."""

import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import quick_jit
from flax import nnx
from tiny import random_params

from maskflow_jax.models import latte_torch
from maskflow_jax.models.conditioning import Conditions, TextBranch
from maskflow_jax.models.latte import Latte, LatteConfig
from maskflow_jax.parallel import sharding
from maskflow_jax.scenes.conditions import Scenes, drop, null, of_frames

CONFIG = LatteConfig(
    codebook_size=9, depth=4, width=16, num_heads=2, patch_size=2, remat="none", attention="xla"
)
WORDS, LABELS = Conditions(num_words=6), Conditions(num_labels=5)
EMBEDDED = Conditions(text_width=7)
UPDATED = Conditions(num_words=6, text_update=True)
FRAMES, GRID, LENGTH = 6, 4, 3
TOKENS = np.random.default_rng(0).integers(0, 9, (2, FRAMES, GRID, GRID))
TIMES = np.random.default_rng(1).random((2, FRAMES)).astype(np.float32)
# Ragged: scenes of other lengths in the two windows.
SCENE_ID = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 2]], np.int32)

# The operations of `features` below before there were conditions.
OPERATIONS = {
    "dot_general": 18,
    "transpose": 15,
    "add": 54,
    "multiply": 31,
    "divide": 14,
    "exponential": 4,
    "concatenate": 1,
    "while": 1,
    "reduce": 15,
    "subtract": 12,
    "rsqrt": 5,
    "gather": 2,
    "select": 3,
    "dynamic_slice": 10,
    "tanh": 2,
}


def network(conditions, **changes):
    config = dataclasses.replace(CONFIG, conditions=conditions, **changes)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0))))
    params = random_params(lambda: Latte(config, nnx.Rngs(0)), scale=0.2)
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))


def conditions_of(conditions, seed=0, num_scenes=3):
    """Conditions for `SCENE_ID`; every caption has at least one token and one that is not."""
    rng = np.random.default_rng(seed)
    if conditions.num_labels:
        return Scenes(SCENE_ID, labels=rng.integers(0, 5, (2, num_scenes)).astype(np.int32))
    shape = (2, num_scenes, LENGTH)
    if conditions.text_width:
        captions = rng.normal(size=(*shape, conditions.text_width)).astype(np.float32)
    else:
        captions = rng.integers(0, 6, shape).astype(np.int32)
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH, (2, num_scenes, 1))
    return Scenes(SCENE_ID, captions=captions, caption_mask=mask)


@functools.cache
def compiled(conditions):
    """A network and its features; the positions of frames are all 0: no embedding tells them."""
    model = network(conditions)

    @quick_jit
    def run(tokens, times, scenes):
        return model.features(tokens, times, positions=np.zeros(FRAMES), scenes=scenes)

    return run


def features(conditions, scenes, tokens=TOKENS, times=TIMES):
    return np.asarray(compiled(conditions)(tokens, times, scenes))


def lowered(config):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0))))

    def run(params, tokens, times):
        return nnx.merge(graphdef, params).features(tokens, times)

    tokens = jax.ShapeDtypeStruct((2, 4, 4, 4), jnp.int32)
    times = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    return jax.jit(run).lower(params, tokens, times).as_text()


def test_a_network_without_conditions_is_the_program_that_it_was():
    config = LatteConfig(
        codebook_size=16, depth=4, width=32, num_heads=2, remat="none", attention="xla"
    )
    counted = collections.Counter(re.findall(r"stablehlo\.(\w+)", lowered(config)))
    assert {name: counted[name] for name in OPERATIONS} == OPERATIONS
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Latte(config, nnx.Rngs(0)))))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(leaves) == 31  # as before
    assert not any("text" in sharding.path_name(path) for path, _ in leaves)
    conditional = dataclasses.replace(config, conditions=LABELS)
    assert lowered(conditional) != lowered(config)


@pytest.mark.parametrize("conditions", [LABELS, WORDS, EMBEDDED, UPDATED], ids=str)
def test_every_frame_depends_on_its_condition_and_nothing_said_equals_dropped(conditions):
    scenes = conditions_of(conditions)
    shown = features(conditions, scenes)
    other = features(conditions, conditions_of(conditions, seed=5))
    assert np.all(np.abs(shown - other).max(axis=(2, 3)) > 1e-3)
    nothing = features(conditions, None)
    np.testing.assert_allclose(features(conditions, null(scenes)), nothing, atol=1e-5)
    half = features(conditions, drop(scenes, np.array([False, True])))
    np.testing.assert_allclose(half[0], shown[0], atol=1e-5)
    np.testing.assert_allclose(half[1], nothing[1], atol=1e-5)


@pytest.mark.parametrize("conditions", [LABELS, WORDS, UPDATED], ids=str)
def test_scenes_in_another_order_are_the_same_frames_in_another_order(conditions):
    scenes = conditions_of(conditions)
    order = np.array([2, 0, 1])  # scene i of the new order is scene order[i] of the old
    frames = np.stack([np.argsort(np.argsort(order)[row], kind="stable") for row in SCENE_ID])

    def moved(a):
        return np.take_along_axis(a, frames.reshape(frames.shape + (1,) * (a.ndim - 2)), axis=1)

    permuted = Scenes(*(None if a is None else np.asarray(a)[:, order] for a in scenes))
    permuted = permuted._replace(scene_id=np.argsort(order)[moved(SCENE_ID)].astype(np.int32))
    np.testing.assert_allclose(
        features(conditions, permuted, moved(TOKENS), moved(TIMES)),
        moved(features(conditions, scenes)),
        atol=1e-5,
    )
    # Captions alone in another order are another video.
    swapped = scenes._replace(scene_id=permuted.scene_id)
    assert np.abs(features(conditions, swapped) - features(conditions, scenes)).max() > 1e-2


def test_gathering_ragged_scenes_equals_masking_all_captions():
    """The reference attends to all captions, and masks those of other scenes."""
    model, scenes = network(EMBEDDED), conditions_of(EMBEDDED)
    every = network(dataclasses.replace(EMBEDDED, scope="all"))
    text = model.scenes.of_captions(scenes)
    x, condition = (
        jnp.asarray(np.random.default_rng(2).normal(size=shape), jnp.float32)
        for shape in ((2, FRAMES, 4, 16), (2, FRAMES, 16))
    )
    pair = jax.tree.map(lambda a: a[0], model.blocks)
    _, keys, values = pair.text.projections(text)
    gathered = pair.text.for_frames(keys, values, scenes)
    own = np.repeat(SCENE_ID[:, :, None] == np.arange(3), LENGTH, axis=2)  # [B, T, S Lt]
    seen = every.blocks.text.for_frames(keys, values, scenes)
    masked = seen._replace(mask=seen.mask & own)
    run = quick_jit(lambda c: pair.spatial(x, condition, axis="patches", captions=c)[0])
    np.testing.assert_allclose(run(gathered), run(masked), atol=1e-5)
    assert np.abs(run(seen) - run(masked)).max() > 1e-3


def caption_gradient(conditions, depth, *, temporal=True):
    """|d features of the frames of scene j / d caption i|, [S, S], for the second window."""
    model, scenes = network(conditions, depth=depth), conditions_of(conditions)
    if not temporal:
        model.blocks.temporal.modulation.kernel[...] *= 0.0  # closes the gates of the branch
        model.blocks.temporal.modulation.bias[...] *= 0.0

    def of_scene(captions, scene):
        found = model.features(TOKENS, TIMES, scenes=scenes._replace(captions=captions))
        weights = jnp.asarray(scene == SCENE_ID)[:, :, None, None]
        return jnp.sum(jnp.sin(3 * found) * weights)

    rows = quick_jit(jax.vmap(jax.grad(of_scene), (None, 0)))(scenes.captions, jnp.arange(3))
    return np.abs(np.asarray(rows)[:, 1]).max(axis=(2, 3))


def test_captions_reach_other_scenes_by_way_of_temporal_blocks_only():
    apart = caption_gradient(EMBEDDED, depth=2, temporal=False)
    assert np.all(np.diag(apart) > 1e-6)
    np.testing.assert_array_equal(apart[~np.eye(3, dtype=bool)], 0.0)
    assert np.all(caption_gradient(EMBEDDED, depth=2) > 1e-8)
    everything = dataclasses.replace(EMBEDDED, scope="all")
    assert np.all(caption_gradient(everything, depth=2, temporal=False) > 1e-8)


def test_one_scene_is_the_network_of_one_caption():
    """With one scene there is nothing to restrict: all frames see the one caption."""
    scenes = conditions_of(WORDS, num_scenes=1)._replace(scene_id=np.zeros_like(SCENE_ID))
    one = features(WORDS, scenes)
    everything = features(dataclasses.replace(WORDS, scope="all"), scenes)
    np.testing.assert_allclose(one, everything, atol=1e-6)
    # A scene that no frame belongs to changes nothing, whatever its caption.
    more = conditions_of(WORDS)
    padded = Scenes(
        scenes.scene_id,
        captions=np.concatenate([scenes.captions, more.captions[:, 1:]], axis=1),
        caption_mask=np.concatenate([scenes.caption_mask, more.caption_mask[:, 1:]], axis=1),
    )
    np.testing.assert_allclose(features(WORDS, padded), one, atol=1e-6)


def test_updated_captions_see_the_frames_of_their_scene_only():
    model, scenes = network(UPDATED), conditions_of(UPDATED)
    pair = jax.tree.map(lambda a: a[0], model.blocks)
    text = model.scenes.of_captions(scenes)
    condition = jnp.ones((2, FRAMES, 16))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, FRAMES, 4, 16)), jnp.float32)
    changed = x.at[1, 5].multiply(-1.0)  # of scene 2
    update = quick_jit(lambda x: pair.apply_spatial(x, text, condition, scenes)[1])
    before, after = update(x), update(changed)
    moved = np.abs(np.asarray(before - after)).max(axis=(2, 3))
    np.testing.assert_array_equal(moved > 1e-6, [[False] * 3, [False, False, True]])
    sizes = {"width": 16, "num_heads": 2, "mlp_ratio": 2, "dtype": jnp.float32, "kernel": "xla"}
    fresh = TextBranch(UPDATED, nnx.Rngs(0), **sizes)
    np.testing.assert_array_equal(fresh.gates[...], 0.0)  # it starts as the identity


@pytest.mark.parametrize("conditions", [LABELS, WORDS, EMBEDDED], ids=str)
def test_a_cached_context_is_exact_for_an_isolated_network(conditions):
    model, scenes = network(conditions, isolated_context=True), conditions_of(conditions)
    known, times = slice(0, 4), TIMES.copy()
    times[:, known] = 1.0

    @quick_jit
    def both(scenes):
        context = model.context_cache(
            TOKENS[:, known], times[:, known], scenes=of_frames(scenes, known)
        )
        new = slice(4, None)
        cached = model.features(
            TOKENS[:, new], times[:, new], context=context, scenes=of_frames(scenes, new)
        )
        return cached, model.features(TOKENS, times, num_wanted=2, scenes=scenes)

    np.testing.assert_allclose(*both(scenes), atol=1e-5)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="text_update cannot cache"):
        network(UPDATED).context_cache(TOKENS, TIMES)
    with pytest.raises(ValueError, match="use isolated_context or text_update"):
        network(UPDATED, isolated_context=True)
    with pytest.raises(ValueError, match="unconditional network; leave them out"):
        network(None).features(TOKENS, TIMES, scenes=conditions_of(WORDS))
    with pytest.raises(ValueError, match="conditioned on 5 labels, and words were given"):
        network(LABELS).features(TOKENS, TIMES, scenes=conditions_of(WORDS))
    with pytest.raises(ValueError, match=r"embedded in 7 channels, and captions.*in 8 channels"):
        network(EMBEDDED).features(TOKENS, TIMES, scenes=conditions_of(Conditions(text_width=8)))
    with pytest.raises(ValueError, match="give one of them"):
        Conditions(num_labels=2, num_words=3)
    with pytest.raises(ValueError, match="scope is 'none'"):
        Conditions(num_words=2, scope="none")
    config = dataclasses.replace(CONFIG, conditions=WORDS)
    with pytest.raises(ValueError, match=r"captions of scenes.*released layout has no"):
        latte_torch.to_torch({}, config)
    with pytest.raises(ValueError, match="released layout has no"):
        latte_torch.from_torch({}, config)


def test_parameters_of_conditions_are_split_like_the_others():
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
    params = {}
    for name, conditions in (("e", EMBEDDED), ("u", UPDATED), ("w", WORDS), ("l", LABELS)):
        config = dataclasses.replace(CONFIG, conditions=conditions)
        shapes = nnx.eval_shape(lambda config=config: Latte(config, nnx.Rngs(0)))
        params[name] = nnx.to_pure_dict(nnx.state(shapes))
    placed = sharding.state_shardings(mesh, params)
    specs = {
        sharding.path_name(path): str(leaf.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(placed)
    }
    assert "'fsdp', 'tensor'" in specs["w/blocks/text/kv/kernel"]
    assert (
        specs["u/blocks/text/attention/qkv/kernel"]
        == specs["u/blocks/spatial/attention/qkv/kernel"]
    )
    assert specs["w/scenes/word_embedding/embedding"] == specs["w/token_embedding/embedding"]
    assert specs["l/scenes/label_embedding/embedding"] == specs["w/token_embedding/embedding"]
    assert "fsdp" in specs["e/scenes/caption_projection/kernel"]
