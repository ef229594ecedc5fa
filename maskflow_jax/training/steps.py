"""The train step (Algorithm 1) and the held-out measure, as pure jitted functions."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maskflow_jax import sharding
from maskflow_jax.flow import losses
from maskflow_jax.flow.corruption import mask_tokens
from maskflow_jax.flow.frame_times import MIN_TIME
from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.training.optimizer import OptimizerConfig, ema_rate
from maskflow_jax.training.state import TrainState

TIME_BINS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """What the network is trained on.

    Attributes:
        schedule: the noise schedule.
        frame_times: draws training times, (key, B, T) -> [B, T].
        weigh: loss weight of each frame, times [B, T] -> [B, T].
        mask_id: the mask token K.
        mask_ce: whether only masked positions enter the loss.
        frame_block: frames whose logits exist at one time.
    """

    schedule: Schedule
    frame_times: Callable[[jax.Array, int, int], jax.Array]
    weigh: Callable[[jax.Array], jax.Array]
    mask_id: int
    mask_ce: bool = True
    frame_block: int = 1


def corrupt(flow: Flow, key: jax.Array, tokens: jax.Array, times: jax.Array) -> jax.Array:
    """Masks clean tokens [B, T, H, W] to their times [B, T]."""
    return mask_tokens(key, tokens, flow.schedule.kappa(times), flow.mask_id)


def make_train_step(
    graphdef: nnx.GraphDef,
    flow: Flow,
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    state: TrainState,
) -> Callable:
    """Builds the train step.

    Args:
        graphdef: graph definition of the model.
        flow: what it is trained on.
        optimizer: the optimiser of `config`.
        config: for the moving average.
        state: a state, for the shardings that the step keeps.

    Returns:
        `train_step(state, key, tokens) -> (state, metrics)`, jitted, the state donated. `key` is
        the run's key: the step's own is folded from it and the step number. Metrics are float32
        scalars: `loss`, `accuracy`, `masked` (share of masked tokens), `grad_norm`, and a dict
        `grad_norms` with the norm of each top-level part of the model.
    """

    def loss_fn(params, key, tokens):
        time_key, mask_key = jax.random.split(key)
        times = flow.frame_times(time_key, *tokens.shape[:2])
        xt = corrupt(flow, mask_key, tokens, times)
        masked = xt == flow.mask_id
        model = nnx.merge(graphdef, params)
        features = model.features(xt, times)
        sums = losses.frame_sums(
            model.logits,
            features,
            tokens,
            masked,
            counted=masked if flow.mask_ce else jnp.ones_like(masked),
            frame_block=flow.frame_block,
        )
        loss = losses.weighted_loss(sums, flow.weigh(times))
        return loss, {"accuracy": losses.accuracy(sums), "masked": jnp.mean(masked)}

    def train_step(state, key, tokens):
        key = jax.random.fold_in(key, state["step"])
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state["params"], key, tokens.astype(jnp.int32)
        )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        rate = ema_rate(config, state["step"])
        metrics |= {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "grad_norms": {name: optax.tree.norm(part) for name, part in grads.items()},
        }
        new_state = {
            "step": state["step"] + 1,
            "params": params,
            "ema_params": optax.incremental_update(params, state["ema_params"], rate),
            "opt_state": opt_state,
        }
        return new_state, metrics

    # Pinned, so that the second step meets the arrangement that the first was compiled for.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    mesh = state["step"].sharding.mesh
    return jax.jit(
        train_step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )


def make_eval_step(graphdef: nnx.GraphDef, flow: Flow, mesh: jax.sharding.Mesh) -> Callable:
    """Builds the held-out measure: plain masked cross-entropy at times spread over (0, 1).

    Args:
        graphdef: graph definition of the model.
        flow: gives schedule and mask.
        mesh: the mesh.

    Returns:
        `eval_step(params, key, tokens, valid) -> sums`, jitted: for every one of `TIME_BINS` equal
        bins of the frame's time, the summed cross-entropy, correct predictions and masked tokens,
        as a `FrameSums` of [TIME_BINS]. Clips where `valid` [B] is False do not count. Times are
        drawn per frame, whatever the model was trained on, so that runs compare.
    """

    def eval_step(params, key, tokens, valid):
        tokens = tokens.astype(jnp.int32)
        time_key, mask_key = jax.random.split(key)
        times = jax.random.uniform(time_key, tokens.shape[:2], minval=MIN_TIME)
        xt = corrupt(flow, mask_key, tokens, times)
        model = nnx.merge(graphdef, params)
        masked = (xt == flow.mask_id) & valid[:, None, None, None]
        features = model.features(xt, times)
        sums = losses.frame_sums(
            model.logits, features, tokens, masked, frame_block=flow.frame_block
        )
        bins = jnp.clip((times * TIME_BINS).astype(jnp.int32), 0, TIME_BINS - 1)
        return jax.tree.map(
            lambda x: jax.ops.segment_sum(x.reshape(-1), bins.reshape(-1), TIME_BINS), sums
        )

    return jax.jit(eval_step, out_shardings=sharding.replicated(mesh))
