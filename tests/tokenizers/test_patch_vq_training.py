"""Training a patch tokenizer: it learns, and an interrupted run ends as an unbroken one."""

import dataclasses

import jax
import numpy as np
import pytest

from maskflow_jax.evaluation.tokenizer_card import tokenizer_figures
from maskflow_jax.tokenizers import patch_vq_training
from maskflow_jax.tokenizers.patch_vq import PatchVQConfig
from maskflow_jax.tokenizers.patch_vq_training import PatchVQTrainingConfig, train
from maskflow_jax.tokenizers.tokenizer import Tokenizer, save_tokenizer

MODEL = PatchVQConfig(
    frame_size=16, patch_size=4, codebook_size=24, width=16, num_blocks=1, head_width=16
)
TRAINING = PatchVQTrainingConfig(
    num_steps=40,
    batch_size=8,
    learning_rate=5e-3,
    kmeans_patches=600,
    kmeans_iterations=5,
    save_every=10,
)


@pytest.fixture(scope="module")
def frames():
    """Dark and light squares at random places, on a smooth background."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    made = np.empty((60, 16, 16, 3), np.uint8)
    for frame in made:
        left, top = rng.integers(0, 12, 2)
        inside = (x >= left) & (x < left + 5) & (y >= top) & (y < top + 5)
        frame[:] = np.where(inside, rng.choice([30, 220]), 100 + 4 * y)[..., None]
    return made


def trained(frames, folder, **changes):
    """Parameters and the metrics of each report."""
    log = []
    config = dataclasses.replace(TRAINING, **changes)
    params = train(
        frames, MODEL, config, folder, report=lambda step, _, metrics: log.append((step, metrics))
    )
    return params, log


@pytest.fixture(scope="module")
def unbroken(frames, tmp_path_factory):
    return trained(frames, tmp_path_factory.mktemp("unbroken"))


def test_restored_frames_get_better(unbroken, frames, tmp_path):
    params, log = unbroken
    assert [step for step, _ in log] == [10, 20, 30, 40]
    assert all(15 < metrics["psnr"] < 40 for _, metrics in log)
    blank = {**params, "out": jax.tree.map(np.zeros_like, params["out"])}
    psnr = []
    for name, each in (("codes", blank), ("trained", params)):
        save_tokenizer(tmp_path / name, MODEL, each)
        psnr.append(tokenizer_figures(Tokenizer.load(tmp_path / name), [frames])["psnr"])
    assert psnr[1] > psnr[0] + 0.3


def test_a_run_that_was_stopped_ends_as_one_that_was_not(unbroken, frames, tmp_path):
    class StopError(Exception):
        pass

    def stop(step, params, metrics):
        if step == 20:
            raise StopError

    with pytest.raises(StopError):
        train(frames, MODEL, TRAINING, tmp_path, report=stop)
    params, log = trained(frames, tmp_path)
    assert [step for step, _ in log] == [30, 40]
    jax.tree.map(np.testing.assert_array_equal, params, unbroken[0])


def test_a_finished_run_is_not_trained_further(unbroken, frames, tmp_path):
    trained(frames, tmp_path, num_steps=10)
    params, log = trained(frames, tmp_path, num_steps=10)
    assert log == []
    assert params["codebook"].shape == (24, 48)


def test_codes_are_those_that_half_precision_can_store(unbroken):
    codes = unbroken[0]["codebook"]
    np.testing.assert_array_equal(codes, codes.astype(np.float16).astype(np.float32))


def test_seed_decides(unbroken, frames, tmp_path):
    params, _ = trained(frames, tmp_path, seed=1, num_steps=10)
    assert not np.array_equal(params["codebook"], unbroken[0]["codebook"])


def test_frames_of_another_size_are_refused(frames, tmp_path):
    with pytest.raises(ValueError, match=r"frames have shape \[60, 8, 16, 3\]"):
        train(frames[:, :8], MODEL, TRAINING, tmp_path)


def test_too_few_patches_for_the_codes_are_refused(frames):
    config = dataclasses.replace(TRAINING, kmeans_patches=10)
    with pytest.raises(ValueError, match="24 codes cannot be placed on 10 latents"):
        patch_vq_training.find_codebook(frames, MODEL, config)
