"""The plain forms of the published algorithms do what they say, and agree with ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import make_schedule
from flax import nnx

from maskflow_jax.profiling import published
from maskflow_jax.training.objective import Layout
from maskflow_jax.training.steps import clip_loss, corrupt

K = 8


class Stub:
    """A network whose prediction is the same distribution everywhere."""

    mask_id = K

    def __init__(self, probabilities):
        self._logits = jnp.log(jnp.asarray(probabilities, jnp.float32))

    def features(self, x, times):
        return x

    def logits(self, x):
        return jnp.broadcast_to(self._logits, (*x.shape, K))


PROBABILITIES = np.arange(1, K + 1) / np.arange(1, K + 1).sum()


def test_mgm_reveals_so_many_and_the_most_confident():
    x = jnp.full((2, 2, 8, 8), K).at[:, 0].set(3)
    times = jnp.zeros((2, 2))
    after = published.mgm_step(Stub(PROBABILITIES), jax.random.key(0), x, times, 5)
    np.testing.assert_array_equal(after[:, 0], 3)
    revealed = np.asarray(after[:, 1])[np.asarray(after[:, 1]) != K]
    assert len(revealed) >= 10  # ties are all revealed
    assert set(revealed.tolist()) == {K - 1}  # the likeliest value is the most confident one


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_fm_reveals_with_the_rate_of_the_chain_and_draws_the_prediction(name):
    schedule, step_size, t = make_schedule(name), 0.05, 0.4
    x = jnp.full((1, 4, 64, 64), K).at[:, 0].set(3)
    times = jnp.full((1, 4), t)
    after = np.asarray(
        published.fm_step(Stub(PROBABILITIES), jax.random.key(0), x, times, step_size, schedule)
    )
    np.testing.assert_array_equal(after[:, 0], 3)
    revealed = after[:, 1:][after[:, 1:] != K]
    rate = float(step_size * schedule.derivative(t) / (1 - schedule.kappa(t)))
    assert revealed.size / after[:, 1:].size == pytest.approx(rate, rel=0.1)
    found = np.bincount(revealed, minlength=K) / revealed.size
    assert np.abs(found - PROBABILITIES).max() < 4 * np.sqrt(0.25 / revealed.size)


def test_the_loss_is_ours(world):
    model = nnx.merge(world.graphdef, world.state()["params"])
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, K, (4, 4, 4, 4)), jnp.int32)
    times = jax.random.uniform(jax.random.key(1), (4, 4), minval=0.01)
    clips = corrupt(world.flow, jax.random.key(2), tokens, times)
    weights = world.flow.weigh(times)
    plain = published.loss_of(model, tokens, clips.xt, times, weights)
    scaled = weights / (jnp.sum(clips.masked) + 1e-6)
    ours, _, _ = clip_loss(model, Layout(world.mesh, 1), clips, clips.masked, scaled)
    assert float(ours) == pytest.approx(float(plain), rel=1e-5)
    whole = published.loss(model, jax.random.key(3), tokens, world.flow)
    assert float(whole) == pytest.approx(float(plain), rel=0.5)
