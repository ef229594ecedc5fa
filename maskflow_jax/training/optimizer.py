"""AdamW with gradient clipping and an optional linear warm-up, as MaskFlow is trained.

The paper keeps the learning rate constant. Short runs gain from a decay: with `decay_steps` the
rate falls by a half cosine after the warm-up.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of the optimiser; the defaults are the paper's.

    Attributes:
        learning_rate: Adam's peak rate, constant after the warm-up unless it decays.
        warmup_steps: steps over which the rate grows linearly from 0.
        decay_steps: step at which the rate has fallen to its final value, the warm-up counted in;
            0 keeps it constant. It may change when a run goes on, so that a run can be prolonged.
        final_learning_rate_fraction: final rate over the peak rate, 0 to 1.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        weight_decay: decoupled weight decay.
        clip_norm: largest global norm of the gradient.
        ema_decay: decay of the moving average of the parameters, per step.
        ema_warmup: whether the decay starts low and grows as (1 + step) / (10 + step), so that
            short runs forget their initialisation.
        micro_batches: parts that a batch is worked through in, one after the other; their gradients
            add up to the whole batch's, in less memory.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay_steps: int = 0
    final_learning_rate_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 2.0
    ema_decay: float = 0.9999
    ema_warmup: bool = False
    micro_batches: int = 1

    def __post_init__(self):
        """Raises ValueError for a batch in no parts, or a decay that cannot be."""
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches is {self.micro_batches}; set it to 1 or more")
        if self.decay_steps and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps is {self.decay_steps}; set it above warmup_steps "
                f"({self.warmup_steps}), or to 0 for a constant rate"
            )
        if not 0 <= self.final_learning_rate_fraction <= 1:
            raise ValueError(
                f"final_learning_rate_fraction is {self.final_learning_rate_fraction}; choose a "
                "number from 0 to 1"
            )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds clipping, then AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            _learning_rate(config),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
        ),
    )


def _learning_rate(config: OptimizerConfig) -> optax.Schedule | float:
    """The rate by step; a number where it is the same at all steps."""
    if config.decay_steps:
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if config.warmup_steps else config.learning_rate,
            peak_value=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_steps=config.decay_steps,
            end_value=config.final_learning_rate_fraction * config.learning_rate,
        )
    if config.warmup_steps:
        return optax.warmup_constant_schedule(0.0, config.learning_rate, config.warmup_steps)
    return config.learning_rate


def ema_rate(config: OptimizerConfig, step: jax.Array) -> jax.Array:
    """Weight of the newest parameters in the moving average after step `step` (from 0)."""
    if not config.ema_warmup:
        return jnp.asarray(1 - config.ema_decay)
    return 1 - jnp.minimum(config.ema_decay, (1 + step) / (10 + step))
