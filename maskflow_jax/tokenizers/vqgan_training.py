"""Training a VQ autoencoder: reconstruction, commitment, a codebook of running means.

The encoder and decoder minimise the squared error of the image plus `commitment` times the squared
distance of each latent to its code; the gradient of the image passes straight through the
quantiser. A code is the exponential moving average of the latents that chose it (van den Oord et
al. 2017, appendix A.1), and a code that hardly any latent chooses is moved onto a random latent of
the batch. For the first `warm_up_steps` nothing is quantised: the codebook then starts from latents
that already describe images, which is what keeps nearly all of it in use.

Batch i depends on (seed, i) alone and the whole state is saved, so a run that was interrupted goes
on as if it had not been.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct

from maskflow_jax.tokenizers.pixels import to_unit_range
from maskflow_jax.tokenizers.psnr import psnr
from maskflow_jax.tokenizers.saved_states import open_states
from maskflow_jax.tokenizers.vqgan import VQGAN, VQGANConfig, nearest_code


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQTrainingConfig:
    """Settings of the optimisation.

    Attributes:
        num_steps: Optimiser steps.
        warm_up_steps: First steps, in which latents are not quantised.
        learning_rate: Adam's peak rate, decayed to 1% of it by a half cosine.
        commitment: Weight of the commitment term.
        code_decay: Decay of a code's running mean, per step.
        dead_below: A code chosen fewer times than this per batch, on running average, is revived.
        kmeans_iterations: Lloyd iterations that place the codebook after the warm-up.
        batch_size: Number of frames per step.
        seed: Seed of the parameters and of the batches.
        save_every: Number of steps between saved states.
    """

    num_steps: int = 10_000
    warm_up_steps: int = 1_000
    learning_rate: float = 1e-3
    commitment: float = 0.25
    code_decay: float = 0.99
    dead_below: float = 0.05
    kmeans_iterations: int = 20
    batch_size: int = 8
    seed: int = 0
    save_every: int = 1_000


class VQTrainState(struct.PyTreeNode):
    """Everything that training changes.

    Attributes:
        step: Int32 scalar.
        params: Parameters of `VQGAN`, the codebook included.
        opt_state: Optax state.
        code_counts: float [K], running mean of how often each code is chosen in a batch.
        code_sums: float [K, C], running mean of the sum of the latents that chose it.
    """

    step: jax.Array
    params: dict
    opt_state: Any
    code_counts: jax.Array
    code_sums: jax.Array


def train(
    frames: np.ndarray,
    model: VQGANConfig,
    config: VQTrainingConfig,
    directory: str | Path,
    *,
    report: Callable[[int, dict, dict[str, float]], None] = lambda *_: None,
) -> dict:
    """Trains a tokenizer, from its last saved state if there is one.

    Args:
        frames: Training frames uint8 [F, S, S, 3], the same ones whenever a run goes on.
        model: The autoencoder.
        config: The optimisation.
        directory: Folder for saved states.
        report: Called with (step, parameters, metrics) at each saved state.

    Returns:
        The parameters of `VQGAN`.

    Raises:
        ValueError: If there are fewer latents than codes, or the folder holds a training with other
            settings.
    """
    init, train_step, place_codebook = build(model, config)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    # About four latents per code, so that no code starts from a single latent.
    num_placed = max(config.batch_size, 4 * model.codebook_size // model.grid_size**2)

    def draw(step: int, count: int) -> jax.Array:
        rng = np.random.default_rng([config.seed, step, count])
        return to_unit_range(frames[rng.integers(0, len(frames), count)])

    settings = {"model": dataclasses.asdict(model), "training": dataclasses.asdict(config)}
    with open_states(directory, settings) as saved:
        state = init(init_key)
        state = saved.restore(state) or state
        for step in range(int(state.step), config.num_steps):
            if step == config.warm_up_steps:
                state = place_codebook(state, key, draw(step, num_placed))
            state, metrics = train_step(state, key, draw(step, config.batch_size))
            if (step + 1) % config.save_every == 0 or step + 1 == config.num_steps:
                saved.save(step + 1, state)
                report(step + 1, state.params, jax.tree.map(float, metrics))
    return state.params


def build(model: VQGANConfig, config: VQTrainingConfig) -> tuple[Callable, Callable, Callable]:
    """Builds the functions of a training run.

    Args:
        model: The autoencoder.
        config: The optimisation.

    Returns:
        `init(key) -> state`, `train_step(state, key, images) -> (state, metrics)` (jitted, the
        state donated) and `place_codebook(state, key, images) -> state`, to be called once when
        `state.step == warm_up_steps`. Images are float [B, H, W, 3] in [-1, 1].
    """
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: VQGAN(model, nnx.Rngs(0))))
    rate = optax.cosine_decay_schedule(config.learning_rate, config.num_steps, alpha=0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))

    def init(key: jax.Array) -> VQTrainState:
        params = nnx.to_pure_dict(nnx.state(VQGAN(model, nnx.Rngs(key))))
        codebook = params["codebook"]
        counts = jnp.ones(model.codebook_size)
        opt_state = optimizer.init(params)
        return VQTrainState(jnp.zeros((), jnp.int32), params, opt_state, counts, codebook + 0.0)

    def loss_fn(params, images, quantised: jax.Array):
        network = nnx.merge(graphdef, params)
        latents = network.encode(images)
        tokens = network.nearest_code(jax.lax.stop_gradient(latents))
        codes = jax.lax.stop_gradient(jnp.take(params["codebook"], tokens, axis=0))
        straight_through = latents + jax.lax.stop_gradient(codes - latents)
        decoded = network.decode(jnp.where(quantised, straight_through, latents))
        error = jnp.mean((decoded - images) ** 2)
        commitment = jnp.mean((latents - codes) ** 2)
        loss = error + jnp.where(quantised, config.commitment * commitment, 0.0)
        return loss, (error, commitment, latents, tokens)

    def train_step(state: VQTrainState, key: jax.Array, images: jax.Array):
        quantised = state.step >= config.warm_up_steps
        grads, (error, commitment, latents, tokens) = jax.grad(loss_fn, has_aux=True)(
            state.params, images, quantised
        )
        # The codebook follows its running means; the optimiser must not see it.
        grads["codebook"] = jnp.zeros_like(grads["codebook"])
        updates, opt_state = optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        flat = einops.rearrange(latents, "b h w c -> (b h w) c")
        codebook, counts, sums = update_codebook(
            jax.random.fold_in(key, state.step), state, flat, tokens.reshape(-1), config
        )
        params["codebook"] = jnp.where(quantised, codebook, params["codebook"])
        metrics = {
            "psnr": psnr(error, value_range=2.0),
            "commitment": commitment,
            "code_usage": jnp.mean(counts >= config.dead_below),
        }
        state = VQTrainState(state.step + 1, params, opt_state, counts, sums)
        return state, metrics

    def place_codebook(state: VQTrainState, key: jax.Array, images: jax.Array) -> VQTrainState:
        latents = nnx.merge(graphdef, state.params).encode(images)
        flat = einops.rearrange(latents, "b h w c -> (b h w) c")
        codebook = kmeans(key, flat, model.codebook_size, config.kmeans_iterations)
        counts = jnp.ones(model.codebook_size)
        params = state.params | {"codebook": codebook}
        return state.replace(params=params, code_counts=counts, code_sums=codebook + 0.0)

    return jax.jit(init), jax.jit(train_step, donate_argnums=0), jax.jit(place_codebook)


def update_codebook(
    key: jax.Array,
    state: VQTrainState,
    latents: jax.Array,
    tokens: jax.Array,
    config: VQTrainingConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Moves each code to the running mean of its latents and revives dead codes.

    Args:
        key: Random key for the latents that dead codes are moved onto.
        state: Train state with the running counts and sums.
        latents: float [N, C], one batch.
        tokens: Int32 [N], the code of each latent.
        config: Decay, and threshold below which a code is dead.

    Returns:
        The codebook [K, C], the counts [K] and the sums [K, C].
    """
    num_codes = state.code_counts.shape[0]
    latents = jax.lax.stop_gradient(latents)
    blend = config.code_decay
    counts = jax.ops.segment_sum(jnp.ones(len(tokens)), tokens, num_codes)
    sums = jax.ops.segment_sum(latents, tokens, num_codes)
    counts = blend * state.code_counts + (1 - blend) * counts
    sums = blend * state.code_sums + (1 - blend) * sums
    dead = counts < config.dead_below
    replacements = latents[jax.random.randint(key, (num_codes,), 0, len(latents))]
    # A revived code starts with a count of one, so that it lives long enough to be chosen.
    counts = jnp.where(dead, 1.0, counts)
    sums = jnp.where(dead[:, None], replacements, sums)
    return sums / counts[:, None], counts, sums


def kmeans(key: jax.Array, points: jax.Array, num_centres: int, iterations: int) -> jax.Array:
    """Lloyd's algorithm from random points; an empty cluster moves to a random point.

    Args:
        key: Random key for the first centres.
        points: float [N, C] with N >= num_centres.
        num_centres: Number of centres K.
        iterations: Number of Lloyd iterations.

    Returns:
        Centres float [K, C].

    Raises:
        ValueError: if there are fewer points than centres.
    """
    if len(points) < num_centres:
        raise ValueError(
            f"{num_centres} codes cannot be placed on {len(points)} latents; raise the batch size "
            "or lower codebook_size"
        )

    def iterate(index, centres):
        tokens = nearest_code(points, centres)
        counts = jax.ops.segment_sum(jnp.ones(len(points)), tokens, num_centres)[:, None]
        sums = jax.ops.segment_sum(points, tokens, num_centres)
        draws = jax.random.randint(jax.random.fold_in(key, index), (num_centres,), 0, len(points))
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), points[draws])

    first = points[jax.random.permutation(key, len(points))[:num_centres]]
    return jax.lax.fori_loop(0, iterations, iterate, first)
