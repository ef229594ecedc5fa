"""AdamW with gradient clipping, an optional linear warm-up and an optional cosine decay."""

import jax
import jax.numpy as jnp
import optax

from maskflow_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig) -> optax.Schedule | float:
    """Returns the learning rate as a function of the step, or as a number if it is constant."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.decay_steps:
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak,
            peak,
            warmup,
            config.decay_steps,
            end_value=peak * config.final_learning_rate_fraction,
        )
    if warmup:
        return optax.warmup_constant_schedule(0.0, peak, warmup)
    return peak


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns gradient clipping followed by AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
        ),
    )


def ema_rate(config: OptimizerConfig, step: jax.Array) -> jax.Array:
    """Returns the weight of the newest parameters in the moving average.

    Args:
        config: Settings of the optimiser.
        step: Number of the step, int scalar, from 0.

    Returns:
        float32 scalar: 1 - `ema_decay`, or with `ema_warmup` a larger weight in the first steps.
    """
    if not config.ema_warmup:
        return jnp.asarray(1 - config.ema_decay)
    return 1 - jnp.minimum(config.ema_decay, (1 + step) / (10 + step))
