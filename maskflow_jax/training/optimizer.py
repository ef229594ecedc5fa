"""AdamW with gradient clipping and an optional linear warm-up, as MaskFlow is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of the optimiser; the defaults are the paper's.

    Attributes:
        learning_rate: Adam's rate, constant after the warm-up.
        warmup_steps: steps over which the rate grows linearly from 0.
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
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 2.0
    ema_decay: float = 0.9999
    ema_warmup: bool = False
    micro_batches: int = 1

    def __post_init__(self):
        """Raises ValueError for a batch in no parts."""
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches is {self.micro_batches}; set it to 1 or more")


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds clipping, then AdamW."""
    rate = optax.warmup_constant_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            rate if config.warmup_steps else config.learning_rate,
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
        ),
    )


def ema_rate(config: OptimizerConfig, step: jax.Array) -> jax.Array:
    """Weight of the newest parameters in the moving average after step `step` (from 0)."""
    if not config.ema_warmup:
        return jnp.asarray(1 - config.ema_decay)
    return 1 - jnp.minimum(config.ema_decay, (1 + step) / (10 + step))
