"""The Euler transition against the released velocity u = kappa' / (1 - kappa) (p - onehot(xt))."""

from pathlib import Path

import jax
import numpy as np
import pytest
from distributions import make_schedule

from maskflow_jax.sampling.samplers.fm import TRANSITIONS

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "fm_velocity.npz")
H = np.float32(2**-10)  # small enough that no probability is cut at 1


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_a_token_moves_to_each_other_value_at_the_released_rate(name):
    xt, logits, t, velocity = (REFERENCE[f"{name}_{key}"] for key in ("xt", "logits", "t", "u"))
    rate = np.asarray(TRANSITIONS["euler"](make_schedule(name), t, t + H)) / H  # [B, T]
    ours = rate[:, :, None, None, None] * np.asarray(jax.nn.softmax(logits))
    other = xt[..., None] != np.arange(logits.shape[-1])  # all values but the one it has
    np.testing.assert_allclose(ours[other], velocity[other], rtol=2e-4, atol=1e-6)
    # The rate printed in the paper's text, t / (1 - t), is not it.
    assert not np.allclose(rate, t / (1 - t), rtol=0.05)
