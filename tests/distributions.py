"""Known distributions that samplers are tested against, and the chi-square test that compares."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.flow.schedules import SCHEDULES
from maskflow_jax.sampling.guidance import Guidance
from maskflow_jax.sampling.proposal import Decoding, Proposer
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.sampling.types import Step
from maskflow_jax.sampling.views import View
from maskflow_jax.sampling.window_sampler import WindowSampler

# For small samplers compiling takes most of the test's time: this more than halves it. Newer
# releases of XLA have no fusion emitters to turn off, and refuse options they do not know.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    | ({} if jax.__version_info__ >= (0, 11) else {"xla_cpu_use_fusion_emitters": False}),
)


def make_schedule(name, **parameters):
    return SCHEDULES[name](**parameters)


def window_sampler(name="mgm", schedule="sigmoid", **settings):
    """A `WindowSampler` from flat settings; those of decoding and guidance by their prefixes."""
    kinds = {"decoding": Decoding, "guidance": Guidance}
    parts = {
        part: kind(
            **{k.partition("_")[2]: settings.pop(k) for k in [*settings] if k.startswith(part)}
        )
        for part, kind in kinds.items()
    }
    around = ("context_time", "context_cache", "frame_block")
    outer = {key: settings.pop(key) for key in around if key in settings}
    return WindowSampler(
        sampler=SAMPLERS[name](**settings), schedule=make_schedule(schedule), **parts, **outer
    )


def proposer(features, logits, *, schedule="linear", **settings):
    """A `Proposer` with a plain view, unless another is given."""
    settings = {"view": View(schedule=make_schedule(schedule))} | settings
    return Proposer(features=features, logits=logits, **settings)


def sample_keys(seed, num_samples):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(num_samples))


def follows(counts, probabilities):
    """Chi-square goodness of fit at the 0.1% level (Wilson-Hilferty critical value)."""
    counts, probabilities = np.ravel(counts), np.ravel(probabilities)
    if np.any(counts[probabilities == 0.0]):
        return False
    counts, probabilities = counts[probabilities > 0.0], probabilities[probabilities > 0.0]
    expected = probabilities * counts.sum()
    assert abs(probabilities.sum() - 1.0) < 1e-5
    assert expected.min() > 5.0, "too few samples for chi-square"
    freedom = counts.size - 1
    spread = 2.0 / (9.0 * freedom)
    critical = freedom * (1.0 - spread + 3.09 * spread**0.5) ** 3
    return float(np.sum((counts - expected) ** 2 / expected)) < critical


def step_at(x, t, *, known=None, index=0, num_steps=1, s=None, mask_id=-1, schedule=None):
    """A `Step` for calling a proposal or a rule by itself; nothing is known unless said."""
    known = jnp.zeros(x.shape, bool) if known is None else known
    s = jnp.ones_like(t) if s is None else s
    masked = (x == mask_id) & ~known
    return Step(index, num_steps, t, s, masked, ~known, known, mask_id, schedule)


def random_tokens(keys, shape, num_classes):
    """One uniform token per position, from each sample's key (randint is slow to compile)."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
    return (uniform * num_classes).astype(jnp.int32)


def independent_proposal(law, **settings):
    """Every token follows `law` [K], whatever else is revealed."""
    logits = jnp.log(jnp.asarray(law))
    return proposer(
        lambda x, t: x[:, :, 0, :, None],  # one row of tokens per frame
        lambda features: jnp.broadcast_to(
            logits, (*features.shape[:2], 1, features.shape[2], len(law))
        ),
        **settings,
    )


class Functions(NamedTuple):
    """A network made of two functions, of which one is shown whole windows in the video's order."""

    features_fn: Callable
    logits: Callable
    mask_id: int

    def features(self, x, t, *, positions, num_wanted=None):
        order = np.argsort(positions)
        features = self.features_fn(x[:, order], t[:, order])[:, positions]
        return features if num_wanted is None else features[:, -num_wanted:]


class MarkovChain:
    """The joint law of a tiny video, and a network that knows its exact conditionals.

    Its tokens, frame after frame and row after row, are a first-order chain. The network gives
    every token's law given all revealed tokens, wherever they are.
    """

    first = np.array([0.5, 0.3, 0.2])
    transition = np.array([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])

    def __init__(self, shape=(1, 1, 3), first=first, transition=transition):
        self.shape, self.mask_id = shape, len(first)  # T, H, W
        self.num_tokens = int(np.prod(shape))
        self.joint = np.asarray(first)
        for _ in range(self.num_tokens - 1):
            self.joint = self.joint[..., None] * np.asarray(transition)
        patterns = itertools.product(range(self.mask_id + 1), repeat=self.num_tokens)
        with np.errstate(divide="ignore"):
            table = np.log([self._conditionals(x) for x in patterns], dtype=np.float32)
        self.table = jnp.asarray(table.reshape(-1, *shape, self.mask_id))

    def propose(self, **settings):
        return proposer(self.features, self.logits, **settings)

    def features(self, x, t):
        """The pattern of the whole window, and the frame's number: [B, T, 1, 2]."""
        del t
        digits = (self.mask_id + 1) ** np.arange(self.num_tokens - 1, -1, -1)
        pattern = x.reshape(x.shape[0], -1) @ jnp.asarray(digits)
        frames = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        return jnp.stack([jnp.broadcast_to(pattern[:, None], x.shape[:2]), frames], -1)[:, :, None]

    def logits(self, features):
        return self.table[features[:, :, 0, 0], features[:, :, 0, 1]]  # [B, T, H, W, K]

    def counts(self, tokens):
        """How often each video occurs, in the order of `joint`."""
        flat = np.asarray(tokens).reshape(-1, self.num_tokens)
        return np.bincount(
            np.ravel_multi_index(flat.T, self.joint.shape), minlength=self.joint.size
        )

    def _conditionals(self, pattern):
        """Law of each token given the revealed ones: [N, K]."""
        seen = tuple(slice(None) if x == self.mask_id else slice(x, x + 1) for x in pattern)
        given = np.zeros_like(self.joint)
        given[seen] = self.joint[seen]
        given /= given.sum()
        places = set(range(self.num_tokens))
        return [given.sum(axis=tuple(places - {i})) for i in places]
