"""A sampler together with the noise schedule, decoding, guidance and treatment of the context.

Only the new frames of a window are predicted, so computations that only the prediction of context
frames would need are left out. The other computations on the context are repeated at every step,
because the context frames attend to the new frames, which change. With `context_cache` the context
is instead evaluated once, without the new frames, and the new frames attend to the result. This
saves nearly all of the work of autoregressive sampling, where all frames but one are context.

In backward sampling the frame numbers that the network receives run from the last frame to the
first.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.schedules import Schedule
from maskflow_jax.io.settings import refuse
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.proposal import Decoding, Proposer
from maskflow_jax.sampling.types import Network, Sampler, WindowShape, WindowTokens
from maskflow_jax.sampling.views import View
from maskflow_jax.sampling.window import sample_window
from maskflow_jax.scenes.conditions import Scenes, null, of_frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSampler:
    """Fills windows of tokens with a network.

    Attributes:
        sampler: The algorithm.
        schedule: Noise schedule of the network's training.
        decoding: Temperature, top-k and top-p.
        guidance: Partial context guidance.
        context_time: Time of the context, which the released code calls stabilization level. Below
            1 the network receives a re-corrupted context.
        context_cache: Whether a window's context is evaluated once instead of at every step. This
            is exact for a network trained with `isolated_context` if the context frames are the
            only clean frames of the window (not with known last frames, nor with the pyramid), and
            an approximation otherwise.
        frame_block: Number of frames whose logits exist at one time.

    Raises:
        ValueError: if settings are out of range or contradict each other.
    """

    sampler: Sampler
    schedule: Schedule
    decoding: Decoding = Decoding()
    guidance: Guidance = Guidance()
    context_time: float = 1.0
    context_cache: bool = False
    frame_block: int = 1

    def __post_init__(self):
        problems = []
        if self.context_cache and (self.guidance.active or self.context_time != 1.0):
            problems.append(
                "guidance and context_time show the network another context at every step, which "
                "context_cache cannot keep; use one of them"
            )
        if self.context_cache and self.sampler.independent_time == 1.0:
            problems.append(
                "with independent_time 1 all frames are passed as clean, and the cached context "
                "would have to see them; use independent_time or context_cache"
            )
        ranges = {"context_time": (0.0, 1.0), "frame_block": (1, None)}
        refuse("sampling", self, ranges, more=tuple(problems))

    def __call__(
        self,
        network: Network,
        keys: jax.Array,
        window: WindowTokens,
        *,
        context_frames: int,
        stage: str = "chunk",
        backward: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Samples the unknown tokens of a window.

        Args:
            network: The model.
            keys: Typed random keys [B], one per sample.
            window: The tokens before sampling, arrays [B, T, H, W].
            context_frames: Number of known frames m at the start of every sample; the vocabulary
                head does not run on them.
            stage: Stage of the plan. In all stages but "chunk", tokens that are neither known nor
                masked were revealed by an earlier window.
            backward: Whether the window is in reverse order, from the last frame to the first.

        Returns:
            tokens: int32 [B, T, H, W].
            reveal_step: int32 [B, T, H, W], as `window.sample_window`.
        """
        num_frames, height, width = window.tokens.shape[1:]
        shape = WindowShape(
            num_frames=num_frames,
            context_frames=context_frames,
            tokens_per_frame=height * width,
            schedule=self.schedule,
            stage=stage,
        )
        if stage != "chunk":
            revealed = ~window.known & (window.tokens != network.mask_id)
            window = window._replace(revealed=revealed)
        return sample_window(
            keys,
            window,
            self.sampler.times(shape),
            self._proposer(network, window, context_frames, backward),
            self.sampler.step,
            mask_id=network.mask_id,
            schedule=self.schedule,
        )

    def _proposer(
        self, network: Network, window: WindowTokens, context_frames: int, backward: bool
    ) -> Proposer:
        """The proposals of the network for this window."""
        cached = self.context_cache and context_frames > 0
        guidance = self.guidance
        if guidance.active and guidance.time is None:
            guidance = dataclasses.replace(guidance, time=self.sampler.guidance_time)
        features = functools.partial(
            window_features,
            network,
            window.tokens,
            context_frames,
            cached=cached,
            backward=backward,
        )
        scenes, null_features = window.scenes, None
        if scenes is not None and guidance.by_captions:
            null_features = features(scenes=null(scenes))
        return Proposer(
            features=features(scenes=scenes),
            null_features=null_features,
            logits=network.logits,
            view=View(
                schedule=self.schedule,
                context_time=self.context_time,
                independent_time=self.sampler.independent_time,
                revealed_times=getattr(self.sampler, "revealed_times", False),
            ),
            decoding=self.decoding,
            guidance=guidance,
            first_frame=context_frames,
            frame_block=self.frame_block,
        )


def window_features(
    network: Network,
    tokens: jax.Array,
    context_frames: int,
    *,
    cached: bool = False,
    backward: bool = False,
    scenes: Scenes | None = None,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the function that computes the features of a window's new frames.

    Args:
        network: The model.
        tokens: The window, int32 [B, k, H, W]; only its context is used, and only if cached.
        context_frames: Number of known frames m at its start, which do not change.
        cached: Whether the context is evaluated once, by this call.
        backward: Whether the window is in reverse order, from the last frame to the first.
        scenes: Conditions of the window, or None.

    Returns:
        A function of x [B, k, H, W] and t [B, k] to features [B, k - m, N, D].
    """
    num_frames = tokens.shape[1]
    positions = np.arange(num_frames)[::-1] if backward else np.arange(num_frames)
    known, new = slice(context_frames), slice(context_frames, None)
    # Networks without conditions do not take the argument.
    of_window, of_known, of_new = (
        {} if scenes is None else {"scenes": of_frames(scenes, frames)}
        for frames in (slice(None), known, new)
    )
    if not cached:
        wanted = num_frames - context_frames if context_frames else None
        return functools.partial(
            network.features, positions=positions, num_wanted=wanted, **of_window
        )
    context = network.context_cache(
        tokens[:, known],
        jnp.ones((tokens.shape[0], context_frames)),
        positions=positions[known],
        **of_known,
    )
    return lambda x, t: network.features(
        x[:, new], t[:, new], positions=positions[new], context=context, **of_new
    )
