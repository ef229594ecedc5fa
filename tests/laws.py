"""Known laws that samplers are tested against, and the chi-square test that compares."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from maskflow_jax.sampling.proposal import make_propose
from maskflow_jax.sampling.window import Step

# For small samplers compiling takes the test's time, running nothing: this halves it and more.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


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


def step_at(x, t, *, known=None, index=0, num_steps=1, s=None, mask_id=-1):
    """A `Step` for calling a proposal or a rule by itself; nothing is known unless said."""
    known = jnp.zeros(x.shape, bool) if known is None else known
    s = jnp.ones_like(t) if s is None else s
    return Step(index, num_steps, t, s, (x == mask_id) & ~known, ~known, known, mask_id)


def random_tokens(keys, shape, num_classes):
    """One uniform token per position, from each sample's key (randint is slow to compile)."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
    return (uniform * num_classes).astype(jnp.int32)


def independent_proposal(law, **settings):
    """Every token follows `law` [K], whatever else is revealed."""
    logits = jnp.log(jnp.asarray(law))
    return make_propose(
        lambda x, t: x[:, :, 0, :, None],  # one row of tokens per frame
        lambda features: jnp.broadcast_to(
            logits, (*features.shape[:2], 1, features.shape[2], len(law))
        ),
        **settings,
    )


class MarkovChain:
    """Three tokens in a row with a joint law, and a proposal that knows its exact conditionals."""

    first = np.array([0.5, 0.3, 0.2])
    transition = np.array([[0.8, 0.15, 0.05], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])
    mask_id = 3
    shape = (1, 1, 3)  # T, H, W

    def __init__(self):
        self.joint = np.einsum("a,ab,bc->abc", self.first, self.transition, self.transition)
        self.table = jnp.log(jnp.array([self._conditionals(x) for x in self._patterns()]))

    def propose(self, **settings):
        return make_propose(lambda x, t: x[:, :, 0, :, None], self._logits, **settings)

    def counts(self, tokens):
        flat = np.asarray(tokens).reshape(-1, 3)
        return np.bincount(flat @ np.array([9, 3, 1]), minlength=27)

    def _patterns(self):
        return itertools.product(range(4), repeat=3)

    def _conditionals(self, pattern):
        """Law of each token given the revealed ones: [3, K]."""
        seen = tuple(slice(None) if x == self.mask_id else slice(x, x + 1) for x in pattern)
        given = np.zeros_like(self.joint)
        given[seen] = self.joint[seen]
        given /= given.sum()
        return [given.sum(axis=tuple({0, 1, 2} - {i})) for i in range(3)]

    def _logits(self, features):  # [B, 1, 3, 1] -> [B, 1, 1, 3, K]
        pattern = features[..., 0] @ jnp.array([16, 4, 1])  # [B, 1]
        return self.table[pattern][:, :, None]
