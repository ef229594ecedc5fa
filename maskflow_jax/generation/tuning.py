"""A search for sampler settings: the best video that a budget of network evaluations buys.

Sampler, steps, noise, temperature and stride are drawn from `SPACE`, each trial continues the same
validation videos (`comparison.Arena`), and its error is the mean of the three distances of its
tokens from real ones, at the greatest length. No other trial is both cheaper and better than those
on the frontier.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.config_files import to_dict
from maskflow_jax.generation.comparison import Arena, Contestant, parse
from maskflow_jax.io.files import write_with
from maskflow_jax.io.plots import import_figure

SPACE = {
    "mgm": {
        "noise": ("random", "linear"),
        "independent_time": ("None", "0.0"),
        "num_steps": (5, 10, 20, 40),
    },
    "halton": {"num_steps": (5, 10, 20, 40)},
    "remdm": {"num_steps": (10, 20, 40)},
    "fm": {"num_steps": (10, 20, 50, 100)},
}
TEMPERATURES = (0.8, 0.9, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a video of the greatest length may cost.

    Attributes:
        evaluations: Number of network evaluations; None for no limit.
        seconds: Seconds for all videos of a trial together; None for no limit.
    """

    evaluations: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What was tried.

    Attributes:
        contestant: The settings.
        nfe: Number of network evaluations of a video.
        seconds: Seconds for all videos together; None where too few windows were sampled to know.
        error: Mean distance of its tokens from real ones.
    """

    contestant: Contestant
    nfe: int
    seconds: float | None
    error: float


def read_budget(text: str) -> Budget:
    """Reads "200" as network evaluations and "60s" as seconds.

    Raises:
        ValueError: For anything else.
    """
    number = text.removesuffix("s")
    try:
        budget = Budget(seconds=float(number)) if number != text else Budget(evaluations=int(text))
    except ValueError as error:
        raise ValueError(
            f"budget is {text!r}; write network evaluations such as 200, or seconds such as 60s"
        ) from error
    if (budget.evaluations or budget.seconds or 0) <= 0:
        raise ValueError(f"budget is {text!r}; it must be more than 0")
    return budget


def candidates(arena: Arena, budget: Budget, *, seed: int = 0) -> list[tuple[Contestant, int]]:
    """All settings of the space that a budget of evaluations allows, in random order.

    Args:
        arena: The videos.
        budget: The budget.
        seed: Seed of the order.

    Returns:
        Settings and their network evaluations.

    Raises:
        ValueError: If the budget allows none.
    """
    window, found = arena.chunk_size, []
    strides = sorted({1, max(1, window // 2), window - arena.known})
    for sampler, settings in SPACE.items():
        for values in itertools.product(*settings.values(), TEMPERATURES, strides):
            names = (*settings, "decoding.temperature", "stride")
            pairs = ",".join(f"{n}={v}" for n, v in zip(names, values, strict=True))
            contestant = parse(f"{sampler}:{pairs}", arena.known)
            nfe = arena.plan(contestant, arena.factors[-1]).nfe
            if budget.evaluations is None or nfe <= budget.evaluations:
                found.append((contestant, nfe))
    if not found:
        raise ValueError(
            f"no settings make a video of {arena.length} frames with {budget.evaluations} network "
            "evaluations; raise the budget, or lower factors"
        )
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order]


def tune(arena: Arena, budget: Budget, *, trials: int, seed: int = 0) -> Iterator[list[Trial]]:
    """Tries settings; yields all trials so far after each.

    With a budget of seconds, settings are skipped that would exceed it at the speed of the trials
    before.

    Args:
        arena: The videos.
        budget: The budget.
        trials: Largest number of trials.
        seed: Seed of what is tried.

    Raises:
        ValueError: If the budget allows no settings.
    """
    done: list[Trial] = []
    rates: list[float] = []
    for contestant, nfe in candidates(arena, budget, seed=seed):
        if len(done) == trials:
            return
        if budget.seconds is not None and rates and nfe * np.median(rates) > budget.seconds:
            continue
        tokens, rate = arena.play(contestant)
        apart = arena.distances(tokens)[arena.factors[-1]]
        rates += [] if rate is None else [rate]
        done.append(
            Trial(
                contestant=contestant,
                nfe=nfe,
                seconds=None if rate is None else rate * nfe,
                error=float(np.mean([apart.unigram, apart.spatial, apart.temporal])),
            )
        )
        yield list(done)


def tables(
    arena: Arena, budget: str, trials: int, plot: Path
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Tunes and draws the frontier after each trial.

    Args:
        arena: The videos.
        budget: Text of the budget (`read_budget`).
        trials: Largest number of trials.
        plot: Picture to write.

    Yields:
        The rows of `as_rows` and the table of `as_markdown`, of the trials so far.

    Raises:
        ValueError: If the budget cannot be read or no trial keeps within it.
        ImportError: If matplotlib is missing.
    """
    import_figure()  # its error should come before the trials
    limit, floor, allowed = read_budget(budget), real_error(arena), []
    for done in tune(arena, limit, trials=trials):
        allowed = within(done, limit)
        if allowed:
            draw(allowed, floor, plot)
            yield as_rows(allowed, arena), as_markdown(allowed, floor)
    if not allowed:
        raise ValueError(
            f"no trial kept within {limit.seconds} seconds; raise the budget, or lower factors or "
            "the number of videos"
        )


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one beats in both cost and error, cheapest first."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.nfe, t.error)):
        if not best or trial.error < best[-1].error:
            best.append(trial)
    return best


def within(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """The trials whose measured cost is within a budget; one of unknown seconds counts."""
    most = np.inf if budget.seconds is None else budget.seconds
    return [trial for trial in trials if trial.seconds is None or trial.seconds <= most]


def sampling_section(trial: Trial, arena: Arena) -> dict[str, Any]:
    """The section `sampling` of a config that samples as a trial did."""
    stride = trial.contestant.sampling.stride
    context = arena.known if stride is None else arena.chunk_size - stride
    return to_dict(dataclasses.replace(trial.contestant.sampling, context_frames=context))


def as_rows(trials: Sequence[Trial], arena: Arena) -> list[dict[str, Any]]:
    """All trials for a JSON file, the frontier with its sections `sampling`."""
    best = frontier(trials)
    return [
        {
            "settings": trial.contestant.label,
            "nfe": trial.nfe,
            "seconds": trial.seconds,
            "error": trial.error,
            "on_frontier": trial in best,
            **({"sampling": sampling_section(trial, arena)} if trial in best else {}),
        }
        for trial in sorted(trials, key=lambda t: t.nfe)
    ]


def as_markdown(trials: Sequence[Trial], floor: float) -> str:
    """The frontier as a table, with the error of real videos."""
    lines = ["| settings | evaluations | seconds | error |", "|---|---|---|---|"]
    for trial in frontier(trials):
        seconds = "" if trial.seconds is None else f"{trial.seconds:.3g}"
        lines.append(f"| {trial.contestant.label} | {trial.nfe} | {seconds} | {trial.error:.4f} |")
    lines.append(f"| real videos | | | {floor:.4f} |")
    return "\n".join([*lines, "", f"The best of {len(trials)} trials."]) + "\n"


def real_error(arena: Arena) -> float:
    """The error of the true continuation, which no sampler is expected to beat."""
    apart = arena.distances(arena.real)[arena.factors[-1]]
    return float(np.mean([apart.unigram, apart.spatial, apart.temporal]))


def draw(trials: Sequence[Trial], floor: float, path: Path) -> None:
    """Draws error against evaluations, with the frontier as a line.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = import_figure().Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.scatter([t.nfe for t in trials], [t.error for t in trials], s=14, color="lightgrey")
    best = frontier(trials)
    axis.plot([t.nfe for t in best], [t.error for t in best], marker="o", label="frontier")
    axis.axhline(floor, color="grey", ls="--", lw=1, label="real videos")
    axis.set_xscale("log")
    axis.set_xlabel("network evaluations of a video")
    axis.set_ylabel("distance from real tokens")
    axis.legend()
    write_with(path, lambda part: figure.savefig(part, format="png", dpi=110))
