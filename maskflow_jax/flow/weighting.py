"""Loss weights: the weight of a frame in the loss, as a function of the times of its clip.

The signal-to-noise weights are those of Diffusion Forcing (Chen et al. 2024, appendix B), with
kappa in the place of the signal of diffusion. `fused` weights also take the frames before into
account: after clean frames, a frame counts as cleaner than by its own time. `elbo` turns the masked
cross-entropy into a likelihood bound (Shi et al. 2024, Eq. 4; Gat et al. 2024).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskflow_jax.flow.schedules import Schedule


def none(schedule: Schedule, times: jax.Array) -> jax.Array:
    """Gives all frames the same weight: ones [B, T]."""
    del schedule
    return jnp.ones_like(times)


def snr(
    schedule: Schedule,
    times: jax.Array,
    *,
    fused: bool = False,
    decay: float = 0.8,
    clip: float = 6.0,
    form: str = "released",
) -> jax.Array:
    """Weighs frames by a clipped signal-to-noise ratio.

    Args:
        schedule: The noise schedule.
        times: Frame times, float [B, T].
        fused: Whether the ratio of a frame is combined with a running mean over the frames before.
        decay: Decay of that mean per frame.
        clip: Largest ratio; the weights lie in [0, clip].
        form: Form of the ratio: "released" for kappa^2 / (1 - kappa)^2, as in the released code, or
            "paper" for kappa^2 / (1 - kappa^2), as in the paper.

    Returns:
        Weights float [B, T], finite on all of [0, 1].

    Raises:
        ValueError: if `form` is unknown.

    Source: Chen et al., Diffusion Forcing, arXiv 2407.01392, appendix B.
    """
    if form not in SNR_FORMS:
        raise ValueError(
            f"unknown form {form!r} of the ratio; choose one of {', '.join(SNR_FORMS)}"
        )
    kappa = schedule.kappa(times)
    noise = SNR_FORMS[form](kappa)
    # Clipped before dividing, because the ratio is infinite at kappa = 1.
    exceeds = jnp.square(kappa) >= clip * noise
    clipped = jnp.where(exceeds, 1.0, jnp.square(kappa) / jnp.where(exceeds, 1.0, clip * noise))
    if not fused:
        return clip * clipped
    before = _mean_of_frames_before(clipped, decay)
    return clip * (1 - (1 - decay * before) * (1 - clipped))


def elbo(schedule: Schedule, times: jax.Array) -> jax.Array:
    """Weighs frames by kappa' / (1 - kappa), which makes the loss a bound on the likelihood.

    With one time per clip, uniform on [0, 1] (`frame_times.constant`), the expectation of the
    weighted cross-entropy summed over masked tokens bounds the negative log-likelihood of the clip
    in nats. With a separate time for each frame it is no bound, because a frame then also sees
    frames that are cleaner than itself. At kappa = 1 nothing is masked and the weight is 0.

    Args:
        schedule: The noise schedule.
        times: Frame times, float [B, T].

    Returns:
        Weights float [B, T].
    """
    hidden = 1 - schedule.kappa(times)
    weights = schedule.derivative(times) / jnp.where(hidden > 0, hidden, 1.0)
    return jnp.where(hidden > 0, weights, 0.0)


def _mean_of_frames_before(values: jax.Array, decay: float) -> jax.Array:
    """Returns, at frame f, the running mean of frames 0 to f-1, which starts at the first value.

    At frame 0 it is 0.
    """

    def update(mean, value):
        mean = decay * mean + (1 - decay) * value
        return mean, mean

    _, means = jax.lax.scan(update, values[:, 0], values.T)  # the first update keeps values[:, 0]
    return jnp.concatenate([jnp.zeros_like(values[:, :1]), means.T[:, :-1]], axis=1)


SNR_FORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "released": lambda kappa: jnp.square(1 - kappa),
    "paper": lambda kappa: 1 - jnp.square(kappa),
}

WEIGHTINGS: dict[str, Callable[..., jax.Array]] = {"none": none, "snr": snr, "elbo": elbo}
