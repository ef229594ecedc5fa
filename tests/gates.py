"""A small train state for tests of checkpoints, and a gate in the middle of a save."""

import threading
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint._src.serialization import serialization

CONFIG = {"seed": 0, "model": {"depth": 2}}


def make_state(step, width=256):
    """A state of arrays that differ from step to step, too large and random to be stored inline."""
    noise = np.random.default_rng(step).normal(size=(width, 8)).astype(np.float32)
    params = {"w": jnp.asarray(noise), "b": jnp.arange(8.0) + step}
    ema_params = jax.tree.map(lambda x: x / 2, params)
    opt_state = optax.adam(1e-3).init(params)
    return {
        "step": jnp.int32(step),
        "params": params,
        "ema_params": ema_params,
        "opt_state": opt_state,
    }


class Gate:
    """Stops Orbax's background writing of arrays after the first few, until it is opened."""

    def __init__(self, let_through=3):
        self.reached, self._opened, self._left = threading.Event(), threading.Event(), let_through
        self._write = serialization.async_serialize_from_host

    def __enter__(self):
        self._patch = mock.patch.object(serialization, "async_serialize_from_host", self._pass)
        self._patch.start()
        return self

    def __exit__(self, *_):
        self._opened.set()
        self._patch.stop()

    async def _pass(self, *args, **kwargs):
        self._left -= 1
        if self._left < 0:
            self.reached.set()
            opened = self._opened.wait(20)
            self._opened.set()  # the other arrays need not wait as long
            assert opened, "nobody opened: the save waits for the bytes"
        return await self._write(*args, **kwargs)
