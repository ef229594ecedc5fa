"""Compiled sampling: windows of host arrays in, host arrays out, and videos made of them.

Arrays go from the host to the device and back for every window. A window that stayed on the device
would come back with a sharding of its own, and the next call would be compiled again for it.
"""

import copy
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from maskflow_jax.parallel import sharding
from maskflow_jax.parallel.memory import explain_out_of_memory
from maskflow_jax.sampling.rollout import rollout
from maskflow_jax.sampling.types import Plan, Window, WindowTokens
from maskflow_jax.sampling.window_sampler import WindowSampler
from maskflow_jax.scenes.conditions import Scenes


class WindowProgram:
    """The sampling of windows by one network and one sampler, compiled once per kind of window.

    Args:
        graphdef: Graph definition of the network.
        sampler: The sampler with its schedule, decoding and guidance.
        context_frames: Number of known frames at the start of every window but perhaps the first.
        mask_id: The mask token of the network.
        backward: Whether frames run from last to first.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        sampler: WindowSampler,
        *,
        context_frames: int,
        mask_id: int,
        backward: bool = False,
    ):
        self.mask_id = mask_id
        self._graphdef, self._sampler = graphdef, sampler
        self._context_frames, self._backward = context_frames, backward
        self._compiled = {}
        self._scenes: Callable[[int], Scenes] | None = None

    def __call__(
        self,
        params: dict,
        keys: jax.Array,
        tokens: np.ndarray,
        known: np.ndarray,
        window: Window,
        scenes: Scenes | None = None,
    ) -> np.ndarray:
        """Samples a batch of windows.

        Args:
            params: Parameters of the network. The batch is split over the mesh that holds them.
            keys: One typed random key per sample, [B].
            tokens: int32 [B, k, H, W].
            known: bool [B, k, H, W].
            window: The window of the plan.
            scenes: Conditions of the frames of the window.

        Returns:
            Tokens int32 [B, k, H, W] on the host.
        """
        # More context than usual needs no program of its own; less does, because the vocabulary
        # head runs on new frames only. A cache must hold exactly the frames that are clean.
        context = window.context
        if not self._sampler.context_cache:
            context = min(context, self._context_frames)
        mesh = sharding.mesh_of(params)
        program = self._program(context, window.stage, mesh)
        samples = keys, WindowTokens(np.asarray(tokens), np.asarray(known), scenes=scenes)
        if mesh is not None:
            samples = sharding.place_samples(mesh, samples)
        with explain_out_of_memory("sample fewer videos at a time, or lower frame_block"):
            return _to_host(program(params, samples))[: len(tokens)]

    def conditioned(self, scenes: Callable[[int], Scenes] | None) -> "WindowProgram":
        """Returns the same compiled programs, for videos of certain scenes.

        Args:
            scenes: Number of a window's first frame -> conditions of the window.
        """
        program = copy.copy(self)
        program._scenes = scenes
        return program

    def sample_videos(
        self,
        params: dict,
        context: np.ndarray,
        plan: Plan,
        *,
        seed: int | np.ndarray,
        given: WindowTokens | None = None,
        first_sample: int | np.ndarray = 0,
        finished: list[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Continues a batch of videos chunk by chunk.

        Sample i's key is folded from the seed and i, so it is the same video in any batch. Of a
        mesh of several processes, all must call this with the same arguments.

        Args:
            params: Parameters of the network.
            context: Known tokens, int [B, known_at_start, H, W].
            plan: The windows.
            seed: Seed of all samples, or of each, [B].
            given: Further known tokens of the whole video; see `rollout`.
            first_sample: Number i of the first sample of this batch, or of each, [B].
            finished: Windows that were sampled before, int32 [B, k, H, W] each; they are not
                sampled again, and new windows are appended.

        Yields:
            The new frames of every window, int32 [B, h, H, W].
        """
        before = len(finished or ())
        keys = _sample_keys(seed, first_sample, len(context))
        done = plan.known_at_start

        def sample_chunk(index, tokens, known, window):
            nonlocal done
            begin, done = done - window.context, done + window.finished
            if index < before:
                return finished[index]
            chunk_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
            conditions = None if self._scenes is None else self._scenes(begin)
            sampled = self(params, chunk_keys, tokens, known, window, conditions)
            if finished is not None:
                finished.append(sampled)
            return sampled

        return rollout(context, plan, sample_chunk, mask_id=self.mask_id, given=given)

    def _program(self, context: int, stage: str, mesh: jax.sharding.Mesh | None):
        """The jitted function (params, (keys, WindowTokens)) -> tokens of a window."""
        kind = (context, stage, mesh)
        if kind not in self._compiled:

            def sample(params, samples):
                return self._sampler(
                    nnx.merge(self._graphdef, params),
                    *samples,
                    context_frames=context,
                    stage=stage,
                    backward=self._backward,
                )[0]

            if mesh is None:
                self._compiled[kind] = jax.jit(sample)
            else:
                mapped = sharding.map_samples(mesh, sample)
                self._compiled[kind] = jax.jit(mapped, out_shardings=sharding.split_batch(mesh))
        return self._compiled[kind]


def _sample_keys(seed: int | np.ndarray, first_sample: int | np.ndarray, count: int) -> jax.Array:
    """The typed key of each sample, [B], folded from its seed and its number."""
    numbers = np.asarray(first_sample)
    if not numbers.ndim:
        numbers = numbers + np.arange(count)
    if not np.ndim(seed):
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), numbers)
    roots = jnp.stack([jax.random.key(int(each)) for each in seed])
    return jax.vmap(jax.random.fold_in)(roots, numbers)


def _to_host(tokens: jax.Array) -> np.ndarray:
    """Returns all of an array of which other processes may hold parts."""
    if tokens.is_fully_addressable:
        return np.asarray(tokens)
    return multihost_utils.process_allgather(tokens, tiled=True)
