"""Measures sets of generated videos against real ones: everything that needs no model.

Each set is a draw: videos sampled with one seed, compared with real clips that were drawn with the
same seed. A metric is reported as its values over the draws. Of a metric with windows there are

    NAME.window_00 ...   each window of frames
    NAME                 of distances on features the first window; of all others the mean
    NAME.2x ...          of distances: one window of each video, drawn from those within the first
                         2 training windows, so that the number of clips is the same for all lengths
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from maskflow_jax.evaluation.drift import FrameMeter, Row, token_rows, window_slices
from maskflow_jax.evaluation.features import FeatureExtractor, digest_of
from maskflow_jax.evaluation.frechet import kernel_distance
from maskflow_jax.evaluation.judges import Judge
from maskflow_jax.evaluation.motion_reader import MotionReader
from maskflow_jax.evaluation.real_videos import RealVideos, check_frames, halves, random_clips
from maskflow_jax.evaluation.receipts import Metric
from maskflow_jax.evaluation.token_statistics import distance, token_statistics
from maskflow_jax.io.files import sha256_of_json

_DISTANCES = ("unigram", "spatial", "temporal")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """One set of generated videos.

    Attributes:
        tokens: int32 [N, L, h, w].
        seed: Seed of the real clips that it is compared with.
        digest: SHA-256 of the tokens.
    """

    tokens: np.ndarray
    seed: int
    digest: str


class Measurement:
    """What sets of videos are measured by.

    Args:
        real: The real videos.
        draws: The generated videos.
        window: Number of frames of the model's training window.
        clip_frames: Number of frames of the windows in which drift is measured.
        seams: Frames with which the new frames of sampling windows begin.
        batch_size: Clips of a batch of the feature networks.
        cache: Folder in which features are kept; None keeps none.
    """

    def __init__(
        self,
        real: RealVideos,
        draws: Sequence[Draw],
        *,
        window: int,
        clip_frames: int,
        seams: tuple[int, ...] = (),
        batch_size: int = 8,
        cache: Path | None = None,
    ):
        self.real, self.draws, self.clip_frames, self.seams = real, draws, clip_frames, seams
        self.window, self._batch_size, self._cache = window, batch_size, cache
        self.count, self.length = draws[0].tokens.shape[:2]
        self.features: dict[str, str] = {}  # digests by name
        window_slices(self.length, clip_frames)
        if len(real.tokens) < 2:
            raise ValueError(
                f"{real.name} holds {len(real.tokens)} videos: two disjoint sets of real videos "
                "need two or more"
            )

    def by_features(self, judge: Judge) -> list[Metric]:
        """Distances on a network's features.

        Raises:
            ValueError: If there are too few videos or frames.
        """
        extractor = FeatureExtractor(judge.network, self._batch_size)
        found: dict[str, list[float]] = defaultdict(list)
        floors: dict[str, list[float]] = defaultdict(list)
        sizes = []
        for draw in self.draws:
            clips = judge.real_clips(
                self.real.lengths, num_generated=self.count, length=self.length, seed=draw.seed
            )
            judge.check(self.count, len(clips), permit_few=True)
            real = self._real_features(extractor, judge, clips, judge.mode)
            generated = self._generated_features(extractor, judge, draw)
            sets = dict(self._sets(judge.name, generated, draw.seed))
            measures = {judge.name: judge.distance, judge.kernel_name: kernel_distance}
            pair, reference = halves(clips), judge.reference(clips)
            sizes.append(min(map(len, pair)))
            for name, measure in measures.items():
                if sizes[-1] > 1:  # a covariance needs two
                    floors[name].append(measure(real[pair[0]], real[pair[1]]))
                for label, features in sets.items():
                    found[name + label].append(measure(features, real[reference]))
            if self.real.open_raw is not None:
                mode = "raw" if judge.mode == "reconstructed" else "reconstructed"
                other = self._real_features(extractor, judge, clips, mode)
                for name, measure in measures.items():
                    found[f"{name}.against_{mode}"].append(measure(sets[""], other[reference]))
                # The same clips before and after the tokenizer: what it costs. (The kernel
                # distance takes its sets for independent, which these are not.)
                found[f"r{judge.name}"].append(judge.distance(real, other))
        return [
            Metric(
                name=name,
                draws=tuple(values),
                n=self.count,
                floor=_mean(floors.get(name.partition(".")[0], ())),
                floor_n=min(sizes) if name.partition(".")[0] in floors else None,
            )
            for name, values in found.items()
        ]

    def _sets(self, name: str, features: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Sets of features [N, D] by the suffix of their metrics; `features` is [N, W, D]."""
        windows = features.shape[1]
        yield "", features[:, 0]
        for factor in _factors(self.length, self.window):
            most = factor * self.window // self.clip_frames
            if most < 2:  # the first window, again
                continue
            rng = np.random.default_rng([seed, factor])
            chosen = rng.integers(0, min(most, windows), len(features))
            yield f".{factor}x", features[np.arange(len(features)), chosen]
        for index in range(windows):
            yield f".window_{index:02d}", features[:, index]

    def by_tokens(self, groups: np.ndarray) -> list[Metric]:
        """Statistics of tokens, window by window.

        Args:
            groups: Group of each code (`token_statistics.code_groups`).
        """
        rows, floors = [], []
        for draw in self.draws:
            clips = self._real_tokens(draw.seed)
            reference = token_statistics(clips[1], groups)
            rows.append(token_rows(draw.tokens, self.clip_frames, groups, reference))
            (floor,) = token_rows(clips[0], self.clip_frames, groups, None)
            apart = distance(*(token_statistics(part, groups) for part in clips))
            floors.append(floor | {name: getattr(apart, name) for name in _DISTANCES})
        return self._metrics(rows, floors, min(map(len, clips)))

    def by_frames(self, reader: MotionReader | None) -> list[Metric]:
        """Motion of frames, window by window.

        Args:
            reader: Reads motion on mazes; None leaves it out.
        """
        rows, floors = [], []
        for draw in self.draws:
            meter = FrameMeter(self.clip_frames, self.seams, reader)
            decoded = tqdm(self._decoded(draw), f"motion_seed{draw.seed}", self.count, unit="video")
            for number, frames in enumerate(decoded):
                check_frames(frames, f"generated video {number}")
                meter.add(frames)
            rows.append(meter.rows())
            real = FrameMeter(self.clip_frames, (), reader)
            clips = self._real_tokens(draw.seed)[0]
            for tokens in clips:
                real.add(self.real.tokenizer.decode(tokens))
            floors.append(real.rows()[0])
        return self._metrics(rows, floors, len(clips))

    def _real_tokens(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Real clips of two disjoint sets of videos, as many each as there are generated ones."""
        rng = np.random.default_rng([seed, 0])
        clips = random_clips(self.real.lengths, 2 * self.count, self.clip_frames, rng)
        cut = [self.real.tokens[c.video][c.start : c.start + self.clip_frames] for c in clips]
        even, odd = (np.stack([cut[i] for i in part]) for part in halves(clips))
        return even, odd

    def _metrics(self, draws: list[list[Row]], floors: list[Row], floor_n: int) -> list[Metric]:
        """Metrics of rows [draws][windows]; a mean over windows, and each window."""
        metrics = []
        for name in draws[0][0]:
            values = [[row[name] for row in rows] for rows in draws]  # [draws][windows]
            known = [i for i in range(len(draws[0])) if all(v[i] is not None for v in values)]
            floor = [row[name] for row in floors if row.get(name) is not None]
            more = {"n": self.count, "floor": _mean(floor), "floor_n": floor_n if floor else None}
            if known:
                means = tuple(float(np.mean([v[i] for i in known])) for v in values)
                metrics.append(Metric(name=name, draws=means, **more))
            for i in known:
                draws_of_i = tuple(float(v[i]) for v in values)
                metrics.append(Metric(name=f"{name}.window_{i:02d}", draws=draws_of_i, **more))
        return metrics

    def _decoded(self, draw: Draw, first: int = 0) -> Iterator[np.ndarray]:
        """The frames of each generated video from number `first` on."""
        for tokens in draw.tokens[first:]:
            yield self.real.tokenizer.decode(tokens)

    def _generated_features(
        self, extractor: FeatureExtractor, judge: Judge, draw: Draw
    ) -> np.ndarray:
        """Features of all windows of all videos, [N, W, D]."""
        windows = window_slices(self.length, judge.network.clip_frames)

        def clips(first: int) -> Iterator[np.ndarray]:
            skipped = first % len(windows)
            for frames in self._decoded(draw, first // len(windows)):
                check_frames(frames, "a generated video")
                through = judge.through
                frames = frames if through is None else through(frames)
                yield from (frames[at] for at in windows[skipped:])
                skipped = 0

        name = f"{judge.name}_seed{draw.seed}"
        found = self._extract(extractor, judge, clips, self.count * len(windows), name, draw.digest)
        return found.reshape(self.count, len(windows), -1)

    def _real_features(self, extractor, judge: Judge, chosen: list, mode: str) -> np.ndarray:
        """Features of real clips, [M, D]."""
        places = [[clip.video, clip.start] for clip in chosen]

        def clips(first: int) -> Iterator[np.ndarray]:
            frames = judge.network.clip_frames
            return self.real.clips(chosen[first:], frames, mode, judge.through)

        decides = sha256_of_json(
            {
                "real": self.real.digest,
                "mode": mode,
                "clips": places,
                "tokenizer": self.real.tokenizer.identity["sha256"],
            }
        )
        name = f"real_{mode}_{judge.name}_{decides[:12]}"
        return self._extract(extractor, judge, clips, len(chosen), name, decides)

    def _extract(
        self, extractor: FeatureExtractor, judge: Judge, clips, count: int, name: str, decides: str
    ) -> np.ndarray:
        network = judge.network
        key = sha256_of_json(
            {
                "network": network.sha256,
                "protocol": dataclasses.asdict(judge.protocol) if judge.protocol else None,
                "frames": network.clip_frames,
                "batch_size": extractor.batch_size,
                "decides": decides,
            }
        )
        keep = None if self._cache is None else self._cache / f"{name}_{key[:12]}.npz"
        found = extractor.extract(clips, count, keep=keep, key=key, label=name)
        self.features[name] = digest_of(found)
        return found


def _factors(length: int, window: int) -> list[int]:
    """Those of the paper's extrapolation factors that fit into a length."""
    return [factor for factor in (1, 2, 5, 10) if factor * window <= length]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


@functools.cache
def shipped_reader() -> MotionReader:
    """The motion reader that ships, loaded once."""
    return MotionReader.load()
