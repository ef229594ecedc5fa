"""The sampling steps and the loss as published, computed plainly, to measure ours against.

The network is the same. What is plain is all around it: logits of every position, known or not; a
random number for every class of every position; probabilities and velocities as vectors over the
classes. This is what MaskFlow's algorithms say when they are written down as they stand, and what
the released implementation does.

Source: MaskFlow, arXiv 2502.11234, Eq. 5 and Algorithms 1, 3 and 4.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.training.steps import Flow


def mgm_step(
    model: nnx.Module, key: jax.Array, x: jax.Array, times: jax.Array, count: int
) -> jax.Array:
    """Reveals the most confident of the drawn tokens of every sample (Algorithm 4).

    Args:
        model: The network.
        key: PRNG key.
        x: The window, int32 [B, T, H, W].
        times: float [B, T].
        count: Number of tokens to reveal in a sample.

    Returns:
        The window after the step.
    """
    logits = model.logits(model.features(x, times))
    drawn = _draw(key, logits)
    probabilities = jax.nn.softmax(logits)
    confidence = jnp.take_along_axis(probabilities, drawn[..., None], axis=-1)[..., 0]
    confidence = jnp.where(x == model.mask_id, confidence, -1.0)
    ranked = jnp.sort(confidence.reshape(len(x), -1), axis=1)
    threshold = ranked[:, -count].reshape(-1, 1, 1, 1)
    return jnp.where((confidence >= threshold) & (confidence >= 0), drawn, x)


def fm_step(
    model: nnx.Module,
    key: jax.Array,
    x: jax.Array,
    times: jax.Array,
    step_size: float,
    schedule: Schedule,
) -> jax.Array:
    """Takes an Euler step of the chain with velocities over all classes (Algorithm 3).

    Args:
        model: The network.
        key: PRNG key.
        x: The window, int32 [B, T, H, W].
        times: float [B, T], below 1.
        step_size: h.
        schedule: The noise schedule.

    Returns:
        The window after the step.
    """
    prediction = jax.nn.softmax(model.logits(model.features(x, times)))
    prediction = jnp.pad(prediction, [(0, 0)] * 4 + [(0, 1)])  # no probability of the mask
    present = jax.nn.one_hot(x, model.mask_id + 1)
    rate = schedule.derivative(times) / (1 - schedule.kappa(times))
    velocity = rate[:, :, None, None, None] * (prediction - present)
    probabilities = jnp.clip(present + step_size * velocity, 0, None)
    return jnp.where(x == model.mask_id, _draw(key, jnp.log(probabilities)), x)


def loss(model: nnx.Module, key: jax.Array, tokens: jax.Array, flow: Flow) -> jax.Array:
    """Computes the training loss from the logits of all positions (Algorithm 1).

    Args:
        model: The network.
        key: PRNG key.
        tokens: Clean tokens int32 [B, T, H, W].
        flow: What the network is trained on.

    Returns:
        The loss, a float32 scalar.
    """
    time_key, mask_key = jax.random.split(key)
    times = flow.frame_times(time_key, *tokens.shape[:2])
    kappa = flow.schedule.kappa(times)[:, :, None, None, None]
    clean, mask = (jax.nn.one_hot(a, flow.mask_id + 1) for a in (tokens, flow.mask_id))
    x = _draw(mask_key, jnp.log(kappa * clean + (1 - kappa) * mask))
    return loss_of(model, tokens, x, times, flow.weigh(times))


def loss_of(
    model: nnx.Module, tokens: jax.Array, x: jax.Array, times: jax.Array, weights: jax.Array
) -> jax.Array:
    """Computes the weighted mean of the cross-entropy over the masked positions.

    Args:
        model: The network.
        tokens: Clean tokens int32 [B, T, H, W].
        x: Corrupted tokens [B, T, H, W].
        times: float [B, T].
        weights: Of the frames, float [B, T].

    Returns:
        A float32 scalar.
    """
    log_p = jax.nn.log_softmax(model.logits(model.features(x, times)))
    targets = jax.nn.one_hot(tokens, log_p.shape[-1])
    cross_entropy = -jnp.sum(targets * log_p, axis=-1) * weights[:, :, None, None]
    masked = x == model.mask_id
    return jnp.sum(cross_entropy * masked) / (jnp.sum(masked) + 1e-6)


def _draw(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws from distributions over the last axis, with a Gumbel number for every class."""
    return jnp.argmax(logits + jax.random.gumbel(key, logits.shape), axis=-1).astype(jnp.int32)
