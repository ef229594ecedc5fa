"""Training a `PatchVQ`: k-means finds the codes, then the decoder learns to restore frames.

The two do not wait for each other. Codes are the means of clusters of patches, the best there are
in squared error without a decoder; once they stand, tokens never change, and the decoder minimises
the squared error of the restored frames. There is no straight-through gradient, no commitment term
and no dead code, and a few minutes on two processor cores suffice.

Batch `i` depends on (seed, i) alone and the whole state is saved, so a run that was interrupted
goes on as if it had not been.
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
from flax import nnx

from maskflow_jax.tokenizers.patch_vq import PatchVQ, PatchVQConfig, abstract_patch_vq, to_patches
from maskflow_jax.tokenizers.psnr import psnr
from maskflow_jax.tokenizers.saved_states import open_states
from maskflow_jax.tokenizers.vqgan import nearest_code
from maskflow_jax.tokenizers.vqgan_training import kmeans

_ENCODED_AT_ONCE = 256  # frames
_WARM_UP_STEPS = 50
_LAST_RATE = 0.01  # of the peak rate

State = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchVQTrainingConfig:
    """Settings of the optimisation.

    Attributes:
        num_steps: Steps of the decoder's optimiser.
        batch_size: Frames in a step.
        learning_rate: Adam's peak rate, decayed to 1 % of it by a half cosine.
        kmeans_patches: Patches that the codes are found from.
        kmeans_iterations: Iterations of Lloyd's algorithm.
        seed: Seed of the initial parameters, of k-means and of the batches.
        save_every: Steps between two saved states.
    """

    num_steps: int = 4_000
    batch_size: int = 32
    learning_rate: float = 2e-3
    kmeans_patches: int = 200_000
    kmeans_iterations: int = 30
    seed: int = 0
    save_every: int = 500


def train(
    frames: np.ndarray,
    model: PatchVQConfig,
    config: PatchVQTrainingConfig,
    directory: Path,
    *,
    report: Callable[[int, dict, dict[str, float]], None] = lambda *_: None,
) -> dict:
    """Trains a tokenizer, from its last saved state if there is one.

    Args:
        frames: Training frames uint8 [F, S, S, 3], the same ones whenever a run goes on.
        model: Shape of the tokenizer.
        config: The optimisation.
        directory: Folder for saved states.
        report: Called with (step, parameters, metrics) at each saved state.

    Returns:
        The parameters of `PatchVQ`.

    Raises:
        ValueError: If the frames have another size, or fewer patches than there are codes, or the
            folder holds a training with other settings.
    """
    if frames.shape[1:] != (model.frame_size, model.frame_size, 3):
        raise ValueError(
            f"frames have shape {list(frames.shape)}: pass [F, {model.frame_size}, "
            f"{model.frame_size}, 3], or change frame_size in the model's config"
        )
    init, train_step = build(model, config)
    settings = {"model": dataclasses.asdict(model), "training": dataclasses.asdict(config)}
    with open_states(directory, settings) as saved:
        state = saved.restore(init(jnp.zeros((model.codebook_size, model.embed_dim))))
        if state is None:
            state = init(find_codebook(frames, model, config))
        tokens = encode_frames(frames, model, state["codebook"])
        metrics = {"error": 0.0}
        for step in range(int(state["step"]), config.num_steps):
            rng = np.random.default_rng([config.seed, step])
            chosen = rng.integers(0, len(frames), config.batch_size)
            state, metrics = train_step(state, frames[chosen], tokens[chosen])
            if (step + 1) % config.save_every == 0 or step + 1 == config.num_steps:
                saved.save(step + 1, state)
                values = {"psnr": float(psnr(metrics["error"], value_range=2.0))}
                report(step + 1, _parameters(state), values)
    return _parameters(state)


def build(
    model: PatchVQConfig, config: PatchVQTrainingConfig
) -> tuple[Callable[[jax.Array], State], Callable[..., tuple[State, dict]]]:
    """Builds the functions of a training run.

    Returns:
        `init(codebook) -> state` and `train_step(state, frames, tokens) -> (state, metrics)`, which
        is jitted and donates the state: `step`, `codebook`, `decoder` and `opt_state`.
    """
    graphdef, _ = abstract_patch_vq(model)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(_WARM_UP_STEPS, config.num_steps // 2),
        decay_steps=config.num_steps,
        end_value=_LAST_RATE * config.learning_rate,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))

    def init(codebook: jax.Array) -> State:
        network = nnx.to_pure_dict(nnx.split(PatchVQ(model, nnx.Rngs(config.seed)))[1])
        del network["codebook"]
        step = jnp.zeros((), jnp.int32)
        return {
            "step": step,
            "codebook": codebook,
            "decoder": network,
            "opt_state": optimizer.init(network),
        }

    def loss_fn(decoder: dict, codebook: jax.Array, frames: jax.Array, tokens: jax.Array):
        network = nnx.merge(graphdef, {**decoder, "codebook": codebook})
        restored = network.decode(jnp.take(codebook, tokens, axis=0))
        return jnp.mean((restored - _unit_range(frames)) ** 2)

    def train_step(state: State, frames: jax.Array, tokens: jax.Array) -> tuple[State, dict]:
        error, grads = jax.value_and_grad(loss_fn)(
            state["decoder"], state["codebook"], frames, tokens
        )
        updates, opt_state = optimizer.update(grads, state["opt_state"])
        decoder = optax.apply_updates(state["decoder"], updates)
        changed = {"step": state["step"] + 1, "decoder": decoder, "opt_state": opt_state}
        return state | changed, {"error": error}

    return init, jax.jit(train_step, donate_argnums=0)


def find_codebook(
    frames: np.ndarray, model: PatchVQConfig, config: PatchVQTrainingConfig
) -> jax.Array:
    """Finds the mean patches by k-means.

    Args:
        frames: uint8 [F, S, S, 3].
        model: Shape of the tokenizer.
        config: Number of patches, iterations and the seed.

    Returns:
        Codes float32 [K, 3 p p], rounded to what float16 can store: the shipped file then gives the
        same tokens.

    Raises:
        ValueError: If there are fewer patches than codes.
    """
    rng = np.random.default_rng(config.seed)
    p = model.patch_size
    cut = einops.rearrange(frames, "f (h p) (w q) c -> f h w p q c", p=p, q=p)
    frame, row, column = (rng.integers(0, side, config.kmeans_patches) for side in cut.shape[:3])
    patches = _unit_range(cut[frame, row, column].reshape(config.kmeans_patches, -1))
    search = jax.jit(kmeans, static_argnums=(2, 3))
    codes = search(
        jax.random.key(config.seed), patches, model.codebook_size, config.kmeans_iterations
    )
    return codes.astype(jnp.float16).astype(jnp.float32)


def encode_frames(frames: np.ndarray, model: PatchVQConfig, codebook: jax.Array) -> np.ndarray:
    """The tokens of frames uint8 [F, S, S, 3], int32 [F, h, w]."""

    @jax.jit
    def encode(batch: jax.Array) -> jax.Array:
        return nearest_code(to_patches(_unit_range(batch), model.patch_size), codebook)

    starts = range(0, len(frames), _ENCODED_AT_ONCE)
    return np.concatenate([np.asarray(encode(frames[i : i + _ENCODED_AT_ONCE])) for i in starts])


def _unit_range(frames: jax.Array | np.ndarray) -> jax.Array:
    return jnp.asarray(frames, jnp.float32) / 127.5 - 1


def _parameters(state: State) -> dict:
    """The parameters of `PatchVQ`, copied: the next step donates the state's arrays."""
    return jax.tree.map(np.asarray, {**state["decoder"], "codebook": state["codebook"]})
