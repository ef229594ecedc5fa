"""The train step (Algorithm 1) and the validation measure, as pure jitted functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maskflow_jax.config import OptimizerConfig
from maskflow_jax.flow.corruption import mask_tokens
from maskflow_jax.flow.frame_times import MIN_TIME, clean_but_last_scene
from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.parallel import sharding
from maskflow_jax.scenes.conditions import SceneClips, Scenes, drop
from maskflow_jax.training.objective import Layout, weighted_head_loss
from maskflow_jax.training.optimizer import ema_rate
from maskflow_jax.training.state import TrainState

TIME_BINS = 10

Batch = jax.Array | SceneClips
"""Tokens [B, T, H, W], with their conditions where the network has any."""

TrainStep = Callable[[TrainState, jax.Array, Batch], tuple[TrainState, dict[str, Any]]]
"""(state, the run's key, batch) -> (state, metrics)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """What the network is trained on.

    Attributes:
        schedule: the noise schedule.
        frame_times: draws training times, (key, B, T) -> [B, T].
        weigh: loss weight of each frame, times [B, T] -> [B, T].
        mask_id: the mask token K.
        mask_ce: whether only masked positions enter the loss.
        mean_over: what the loss is divided by: the number of "masked" positions, which is random,
            or of "all" positions, as a likelihood bound needs (`weighting.elbo`).
        frame_block: frames of every sample on which the head runs at one time.
        context_probability: share of the clips with scenes of which all but the last are clean.
        drop_probability: share of them whose conditions are dropped.
    """

    schedule: Schedule
    frame_times: Callable[[jax.Array, int, int], jax.Array]
    weigh: Callable[[jax.Array], jax.Array]
    mask_id: int
    mask_ce: bool = True
    mean_over: str = "masked"
    frame_block: int = 1
    context_probability: float = 0.0
    drop_probability: float = 0.0


class TimeSums(NamedTuple):
    """Validation sums over the tokens of the frames in a bin of time, float32 [TIME_BINS].

    Attributes:
        cross_entropy: in nats.
        count: masked tokens.
        correct: those predicted correctly.
    """

    cross_entropy: jax.Array
    count: jax.Array
    correct: jax.Array


EvalStep = Callable[[dict, jax.Array, Batch, jax.Array], TimeSums]
"""(parameters, key, batch, clip numbers [B]) -> sums."""


class Corrupted(NamedTuple):
    """Clips as the network is shown them, and what it is to predict.

    Attributes:
        tokens: clean tokens int32 [B, T, H, W].
        times: [B, T].
        xt: corrupted tokens [B, T, H, W].
        masked: bool [B, T, H, W].
        scenes: conditions, or None.
    """

    tokens: jax.Array
    times: jax.Array
    xt: jax.Array
    masked: jax.Array
    scenes: Scenes | None = None


def corrupt(flow: Flow, key: jax.Array, batch: Batch, times: jax.Array) -> Corrupted:
    """Masks clean tokens [B, T, H, W] to their times [B, T]."""
    tokens, scenes = _parts(batch)
    tokens = tokens.astype(jnp.int32)
    xt = mask_tokens(key, tokens, flow.schedule.kappa(times), flow.mask_id)
    return Corrupted(tokens, times, xt, xt == flow.mask_id, scenes)


def draw_clips(flow: Flow, key: jax.Array, batch: Batch) -> Corrupted:
    """Draws the times of training and masks a batch to them."""
    time_key, mask_key = jax.random.split(key)
    tokens, scenes = _parts(batch)
    times = flow.frame_times(time_key, *tokens.shape[:2])
    if scenes is not None:
        times, scenes = draw_scenes(flow, jax.random.fold_in(key, 2), times, scenes)
    return corrupt(flow, mask_key, SceneClips(tokens, scenes), times)


def draw_scenes(
    flow: Flow, key: jax.Array, times: jax.Array, scenes: Scenes
) -> tuple[jax.Array, Scenes]:
    """Makes the scenes before the last one clean in some clips, and drops conditions in others.

    Args:
        flow: with both probabilities.
        key: PRNG key.
        times: drawn times [B, T].
        scenes: the conditions.

    Returns:
        Times and conditions of training.

    Source: Qi et al., Mask^2DiT, arXiv 2503.19881, section 3.3.
    """
    context_key, drop_key = jax.random.split(key)
    times = clean_but_last_scene(context_key, times, scenes.scene_id, flow.context_probability)
    dropped = jax.random.bernoulli(drop_key, flow.drop_probability, times.shape[:1])
    return times, drop(scenes, dropped)


def _parts(batch: Batch) -> SceneClips:
    return batch if isinstance(batch, SceneClips) else SceneClips(batch, None)


def clip_loss(
    model: nnx.Module,
    layout: Layout,
    clips: Corrupted,
    counted: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss of a model on corrupted clips.

    Args:
        model: with `features`, `to_patches` and a linear `head`, as `Latte`.
        layout: of the head's loss.
        clips: the clips.
        counted: bool [B, T, H, W], the positions that are predicted.
        weights: float32 [B, T] of the frames.

    Returns:
        The sum of weights * cross-entropy over counted positions, and per frame [B, T] the sums of
        cross-entropy and of correct predictions.
    """
    conditions = {} if clips.scenes is None else {"scenes": clips.scenes}
    features = model.features(clips.xt, clips.times, **conditions)
    counted = model.to_patches(counted)
    loss, positions = weighted_head_loss(
        layout,
        features,
        model.head.kernel[...],
        model.head.bias[...],
        model.to_patches(clips.tokens),
        counted,
        jnp.broadcast_to(weights[:, :, None, None], counted.shape),
    )
    correct = positions.correct & model.to_patches(clips.masked)
    return loss, jnp.sum(positions.cross_entropy, (2, 3)), jnp.sum(correct, (2, 3))


def make_train_step(
    graphdef: nnx.GraphDef,
    flow: Flow,
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    state: TrainState,
) -> TrainStep:
    """Builds the train step.

    Args:
        graphdef: graph definition of the model.
        flow: what it is trained on.
        optimizer: the optimiser of `config`.
        config: for the moving average.
        state: a state, for the shardings that the step keeps.

    Returns:
        `train_step(state, key, batch) -> (state, metrics)`, jitted, the state donated; the step's
        key is folded from the run's `key` and the step number. Metrics are float32 scalars: `loss`,
        `accuracy`, `masked` (share of masked tokens), `grad_norm`, and a dict `grad_norms`.
    """
    mesh = state["step"].sharding.mesh
    layout = Layout(mesh, flow.frame_block)

    def loss_fn(params, part: Corrupted, weights):
        counted = part.masked if flow.mask_ce else jnp.ones_like(part.masked)
        params = sharding.gather_tables(mesh, params)
        loss, _, correct = clip_loss(nnx.merge(graphdef, params), layout, part, counted, weights)
        return loss, jnp.sum(correct)

    def gradients(params, key, batch):
        """All random numbers are drawn for the whole batch: parts do not change the result."""
        clips = draw_clips(flow, key, batch)
        masked = jnp.sum(clips.masked, dtype=jnp.float32)
        masked_only = flow.mask_ce and flow.mean_over == "masked"
        count = masked if masked_only else clips.masked.size
        weights = flow.weigh(clips.times) / (count + 1e-6)
        (loss, correct), grads = accumulate(
            jax.value_and_grad(loss_fn, has_aux=True),
            params,
            (clips, weights),
            num_parts=config.micro_batches,
        )
        metrics = {"loss": loss, "accuracy": correct / (masked + 1e-6)}
        return metrics | {"masked": jnp.mean(clips.masked)}, grads

    def train_step(state, key, batch):
        key = jax.random.fold_in(key, state["step"])
        metrics, grads = gradients(state["params"], key, batch)
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        rate = ema_rate(config, state["step"])
        metrics |= {
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
    return jax.jit(
        train_step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )


def accumulate(grad_fn: Callable, params: dict, batch: Any, *, num_parts: int) -> Any:
    """Adds up what a function returns for the parts of a batch, one after the other.

    Args:
        grad_fn: (params, *part) -> pytree of arrays.
        params: parameters.
        batch: tuple of pytrees of arrays [B, ...].
        num_parts: divides B.

    Returns:
        The sum over all parts.

    Raises:
        ValueError: if the batch cannot be cut into so many parts.
    """
    if num_parts == 1:
        return grad_fn(params, *batch)
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % num_parts:
        raise ValueError(
            f"a batch of {size} cannot be cut into {num_parts} equal parts; choose "
            "optimizer.micro_batches so that it divides data.batch_size"
        )
    # Part i takes every num_parts-th sample: each device keeps the samples it has.
    parts = jax.tree.map(lambda a: einops.rearrange(a, "(b p) ... -> p b ...", p=num_parts), batch)

    def add(total, part):
        return jax.tree.map(jnp.add, total, grad_fn(params, *part)), None

    shapes = jax.eval_shape(grad_fn, params, *jax.tree.map(lambda a: a[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def make_eval_step(graphdef: nnx.GraphDef, flow: Flow, mesh: jax.sharding.Mesh) -> EvalStep:
    """Builds the validation measure: plain masked cross-entropy at times spread over (0, 1).

    Args:
        graphdef: graph definition of the model.
        flow: gives schedule and mask.
        mesh: the mesh.

    Returns:
        `eval_step(params, key, batch, numbers) -> sums`, jitted: for every one of `TIME_BINS`
        equal bins of the frame's time, the summed cross-entropy, correct predictions and masked
        tokens, as `TimeSums`. `numbers` [B] are the clips' numbers in the split: they decide a
        clip's times and masks, whatever batch it is in, and negative ones do not count. Times are
        drawn per frame, whatever the model was trained on, so that runs compare.
    """
    layout = Layout(mesh, flow.frame_block)

    def corrupt_clip(key, clip):
        time_key, mask_key = jax.random.split(key)
        times = jax.random.uniform(time_key, _parts(clip).tokens.shape[:1], minval=MIN_TIME)
        one = jax.tree.map(lambda a: a[None], clip)
        clips = corrupt(flow, mask_key, one, times[None])
        return jax.tree.map(lambda a: a[0], clips)

    def eval_step(params, key, batch, numbers):
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
        clips = jax.vmap(corrupt_clip)(keys, batch)
        times = clips.times
        masked = clips.masked & (numbers >= 0)[:, None, None, None]
        _, cross_entropy, correct = clip_loss(
            nnx.merge(graphdef, sharding.gather_tables(mesh, params)),
            layout,
            clips,
            masked,
            jnp.ones_like(times),
        )
        count = jnp.sum(masked, axis=(2, 3), dtype=jnp.float32)
        bins = jnp.clip((times * TIME_BINS).astype(jnp.int32), 0, TIME_BINS - 1)
        return TimeSums(
            *(
                jax.ops.segment_sum(a.reshape(-1).astype(jnp.float32), bins.reshape(-1), TIME_BINS)
                for a in (cross_entropy, count, correct)
            )
        )

    return jax.jit(eval_step, out_shardings=sharding.replicated(mesh))
