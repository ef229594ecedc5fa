"""The train step (Algorithm 1) and the validation step, as pure jitted functions."""

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
"""Tokens [B, T, H, W], with their conditions if the network has any."""

TrainStep = Callable[[TrainState, jax.Array, Batch], tuple[TrainState, dict[str, Any]]]
"""(state, the run's key, batch) -> (state, metrics)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """The training objective: corruption, loss weights and normalisation.

    Attributes:
        schedule: The noise schedule.
        frame_times: Function that draws training times, (key, B, T) -> [B, T].
        weigh: Function of times [B, T] to loss weights [B, T].
        mask_id: The mask token K.
        mask_ce: Whether only masked positions enter the loss.
        mean_over: Divisor of the loss: the number of "masked" positions, which is random, or of
            "all" positions, as a likelihood bound needs (`weighting.elbo`).
        frame_block: Number of frames of every sample on which the head runs at one time.
        context_probability: Share of the clips with scenes in which all but the last are clean.
        drop_probability: Share of the clips with scenes whose conditions are dropped.
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
        cross_entropy: Sum of the cross-entropy in nats.
        count: Number of masked tokens.
        correct: Number of masked tokens that are predicted correctly.
    """

    cross_entropy: jax.Array
    count: jax.Array
    correct: jax.Array


EvalStep = Callable[[dict, jax.Array, Batch, jax.Array], TimeSums]
"""(parameters, key, batch, clip numbers [B]) -> sums."""


class Corrupted(NamedTuple):
    """Corrupted clips, the input of the network, with their clean tokens.

    Attributes:
        tokens: Clean tokens int32 [B, T, H, W].
        times: Frame times float32 [B, T].
        xt: Corrupted tokens int32 [B, T, H, W].
        masked: Masked positions, bool [B, T, H, W].
        scenes: Conditions, or None.
    """

    tokens: jax.Array
    times: jax.Array
    xt: jax.Array
    masked: jax.Array
    scenes: Scenes | None = None


def corrupt(flow: Flow, key: jax.Array, batch: Batch, times: jax.Array) -> Corrupted:
    """Masks tokens with the probability that belongs to the time of their frame.

    Args:
        flow: The objective.
        key: PRNG key.
        batch: Clean tokens int [B, T, H, W], with conditions or without.
        times: Frame times float [B, T].

    Returns:
        The corrupted clips.
    """
    tokens, scenes = _parts(batch)
    tokens = tokens.astype(jnp.int32)
    xt = mask_tokens(key, tokens, flow.schedule.kappa(times), flow.mask_id)
    return Corrupted(tokens, times, xt, xt == flow.mask_id, scenes)


def draw_clips(flow: Flow, key: jax.Array, batch: Batch) -> Corrupted:
    """Draws training times for a batch and masks it accordingly.

    Args:
        flow: The objective.
        key: PRNG key.
        batch: Clean tokens int [B, T, H, W], with conditions or without.

    Returns:
        The corrupted clips.
    """
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
        flow: The objective, with both probabilities.
        key: PRNG key.
        times: Drawn times [B, T].
        scenes: The conditions.

    Returns:
        The changed times [B, T] and conditions.

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
    """Computes the loss of a model on corrupted clips.

    Args:
        model: Network with `features`, `to_patches` and a linear `head`, such as `Latte`.
        layout: Layout of the head's loss.
        clips: The clips.
        counted: Positions that enter the loss, bool [B, T, H, W].
        weights: Loss weights of the frames, float32 [B, T].

    Returns:
        The sum of weights * cross-entropy over counted positions; the sum of the cross-entropy over
        the counted positions of each frame, [B, T]; and the number of correct predictions among
        its counted, masked positions, [B, T].
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
        graphdef: Graph definition of the model.
        flow: The objective.
        optimizer: The optimiser of `config`.
        config: Settings of the moving average and of micro-batches.
        state: A state with the shardings that the step keeps.

    Returns:
        `train_step(state, key, batch) -> (state, metrics)`, jitted, with a donated state. The key
        of a step is folded from the run's `key` and the step number. Metrics are float32 scalars
        (`masked` is the share of masked tokens) and a dict `grad_norms` by part of the model.
    """
    mesh = state["step"].sharding.mesh
    layout = Layout(mesh, flow.frame_block)

    def loss_fn(params, part: Corrupted, weights):
        counted = part.masked if flow.mask_ce else jnp.ones_like(part.masked)
        params = sharding.gather_tables(mesh, params)
        loss, _, correct = clip_loss(nnx.merge(graphdef, params), layout, part, counted, weights)
        return loss, jnp.sum(correct)

    def gradients(params, key, batch):
        """Draws all random numbers for the whole batch, so micro-batches do not change them."""
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

    # Fixed, so that the second step gets the shardings that the first was compiled for.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        train_step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )


def accumulate(grad_fn: Callable, params: dict, batch: Any, *, num_parts: int) -> Any:
    """Sums the results of a function over the parts of a batch, one part after the other.

    Args:
        grad_fn: Function (params, *part) -> pytree of arrays.
        params: Parameters.
        batch: Tuple of pytrees of arrays [B, ...].
        num_parts: Number of parts, which divides B.

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
    # Part i consists of every num_parts-th sample, so that samples stay on their devices.
    parts = jax.tree.map(lambda a: einops.rearrange(a, "(b p) ... -> p b ...", p=num_parts), batch)

    def add(total, part):
        return jax.tree.map(jnp.add, total, grad_fn(params, *part)), None

    shapes = jax.eval_shape(grad_fn, params, *jax.tree.map(lambda a: a[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def make_eval_step(graphdef: nnx.GraphDef, flow: Flow, mesh: jax.sharding.Mesh) -> EvalStep:
    """Builds the validation step: unweighted masked cross-entropy at uniformly drawn times.

    Args:
        graphdef: Graph definition of the model.
        flow: The objective, of which the noise schedule and the mask token are used.
        mesh: The mesh.

    Returns:
        `eval_step(params, key, batch, numbers) -> sums`, jitted. The sums are `TimeSums` over
        `TIME_BINS` equal bins of the frame time. `numbers` [B] are the numbers of the clips in the
        split; they determine the times and masks of a clip in any batch, and clips with negative
        numbers are left out. Times are drawn for each frame independently, even if the model was
        trained otherwise, so that runs are comparable.
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
