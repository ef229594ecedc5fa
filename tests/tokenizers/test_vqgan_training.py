"""Training a VQGAN: the codebook's running means, dead codes, learning, and going on exactly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import quick_compilation

from maskflow_jax.tokenizers import vqgan_training
from maskflow_jax.tokenizers.psnr import psnr
from maskflow_jax.tokenizers.vqgan import VQGANConfig
from maskflow_jax.tokenizers.vqgan_training import (
    VQTrainingConfig,
    VQTrainState,
    build,
    kmeans,
    train,
    update_codebook,
)

MODEL = VQGANConfig(
    frame_size=8,
    base_width=8,
    width_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    z_channels=4,
    embed_dim=4,
    codebook_size=16,
    norm_groups=4,
)


def codebook_state(counts, sums):
    return VQTrainState(jnp.zeros(()), {}, None, jnp.asarray(counts), jnp.asarray(sums))


def test_codes_are_running_means_of_their_latents():
    config = VQTrainingConfig(code_decay=0.75, dead_below=0.0)
    state = codebook_state([2.0, 4.0], [[2.0], [8.0]])
    latents, tokens = jnp.array([[3.0], [5.0], [1.0]]), jnp.array([0, 0, 1])
    codebook, counts, sums = update_codebook(jax.random.key(0), state, latents, tokens, config)
    np.testing.assert_allclose(counts, [0.75 * 2 + 0.25 * 2, 0.75 * 4 + 0.25 * 1])
    np.testing.assert_allclose(sums[:, 0], [0.75 * 2 + 0.25 * 8, 0.75 * 8 + 0.25 * 1])
    np.testing.assert_allclose(codebook, sums / counts[:, None])


def test_dead_codes_move_onto_latents_and_live_ones_stay():
    config = VQTrainingConfig(code_decay=0.99, dead_below=0.5)
    state = codebook_state([5.0, 0.1], [[5.0], [0.7]])
    latents = jnp.array([[1.0], [1.0], [1.0]])
    codebook, counts, _ = update_codebook(
        jax.random.key(0), state, latents, jnp.zeros(3, jnp.int32), config
    )
    np.testing.assert_allclose(codebook, [[1.0], [1.0]], rtol=1e-5)
    assert counts[1] == 1


def test_kmeans_finds_separate_clusters():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    points = (centres[:, None] + 0.1 * rng.normal(size=(4, 50, 2))).reshape(-1, 2)
    # More codes than clusters: every cluster is found whatever the random start.
    found = np.asarray(kmeans(jax.random.key(0), jnp.asarray(points, jnp.float32), 12, 20))
    distances = np.linalg.norm(found[:, None] - centres, axis=-1)
    assert (distances.min(axis=0) < 0.2).all()
    with pytest.raises(ValueError, match="cannot be placed"):
        kmeans(jax.random.key(0), jnp.zeros((3, 2)), 4, 1)


def test_psnr_is_over_the_range_of_two():
    assert float(psnr(jnp.array(4.0), value_range=2.0)) == 0
    assert float(psnr(jnp.array(0.04), value_range=2.0)) == pytest.approx(20, abs=1e-4)


def test_training_learns_to_reconstruct_through_the_codebook():
    config = VQTrainingConfig(num_steps=120, warm_up_steps=40, learning_rate=3e-3)
    init, train_step, place_codebook = build(MODEL, config)
    key = jax.random.key(0)
    state = init(key)
    # Four flat colours per image, one for each quarter.
    colours = jax.random.uniform(key, (32, 2, 2, 3), minval=-0.9, maxval=0.9)
    colours = jnp.round(colours)
    images = jnp.repeat(jnp.repeat(colours, 4, axis=1), 4, axis=2)
    before = jax.tree.map(np.asarray, state.params["codebook"])
    quality = []
    for step in range(config.num_steps):
        if step == config.warm_up_steps:
            np.testing.assert_array_equal(state.params["codebook"], before)
            state = place_codebook(state, key, images)
        state, metrics = train_step(state, key, images)
        quality.append(float(metrics["psnr"]))
    assert quality[-1] > quality[0] + 6
    assert quality[-1] > quality[config.warm_up_steps] - 1
    assert float(metrics["commitment"]) < 1
    assert int(state.step) == config.num_steps


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    # One compilation for all runs.
    monkeypatch.setattr(vqgan_training, "build", functools.cache(build))
    frames = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    config = VQTrainingConfig(num_steps=9, warm_up_steps=5, batch_size=4, save_every=3)

    class StopError(Exception):
        pass

    def stop(step, params, metrics):
        if step == stop.at:
            raise StopError

    with quick_compilation():
        whole = train(frames, MODEL, config, tmp_path / "whole")
    for stop.at in (3, 6):  # before and after the codebook is placed
        with pytest.raises(StopError):
            train(frames, MODEL, config, tmp_path / "parts", report=stop)
    steps = []
    parts = train(
        frames, MODEL, config, tmp_path / "parts", report=lambda step, *_: steps.append(step)
    )
    assert steps == [9]
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    other = dataclasses.replace(config, num_steps=10)
    with pytest.raises(ValueError, match=r"other settings: training.num_steps was 9 and is 10"):
        train(frames, MODEL, other, tmp_path / "parts")
