"""A model under assessment: its samples, its real videos, and what is measured on them."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from flax import nnx

from maskflow_jax.config import SamplingConfig
from maskflow_jax.config_files import change_sampling, to_dict
from maskflow_jax.evaluation import judges, likelihood, maze_features, motion_reader
from maskflow_jax.evaluation.drift import window_slices
from maskflow_jax.evaluation.measuring import Draw, Measurement, shipped_reader
from maskflow_jax.evaluation.protocols import find_protocol
from maskflow_jax.evaluation.real_videos import (
    Clip,
    RealVideos,
    check_lengths,
    from_source,
    from_tokens,
    random_clips,
)
from maskflow_jax.evaluation.receipts import Metric
from maskflow_jax.evaluation.reconstruction import SSIM_WINDOW, frame_psnr, frame_ssim
from maskflow_jax.evaluation.settings import DEFAULT_CLIP_FRAMES, EvaluationSettings
from maskflow_jax.evaluation.token_statistics import code_groups
from maskflow_jax.generation import sample_sets, trained_model
from maskflow_jax.generation.sample_folder import SampleFolder, digest, local_mesh
from maskflow_jax.generator import VideoGenerator
from maskflow_jax.io.files import sha256_of, sha256_of_tokens
from maskflow_jax.tokenizers.tokenizer import Tokenizer
from maskflow_jax.training.building import make_noise_schedule


class Assessment:
    """A model with what it is measured against.

    Args:
        model: A run, an exported model or the name of a shipped one.
        settings: What to measure.
        tokenizer: Folder of the tokenizer, if it is not where the config says.
        dataset: Folder of the dataset, likewise.

    Attributes:
        generator: The model.
        real: The real videos.

    Raises:
        FileNotFoundError: If the model, its tokenizer, real videos or I3D weights are missing.
        ValueError: If a file is damaged or of another model, or there is too little video.
    """

    def __init__(
        self,
        model: str | Path,
        settings: EvaluationSettings,
        *,
        tokenizer: str | Path | None,
        dataset: str | Path | None,
    ):
        self.settings = settings
        self.generator = VideoGenerator.load(
            model, tokenizer=tokenizer, dataset=dataset, mesh=local_mesh()
        )
        self.sampling: SamplingConfig = change_sampling(
            self.generator.model.config.sampling, settings.sampling
        )
        self.is_maze = decodes_mazes(self.generator.tokenizer)
        self.window = self.generator.window
        self.clip_frames = settings.clip_frames or DEFAULT_CLIP_FRAMES
        length = settings.length or 5 * self.window
        self.generation = self.generator.plan(length, **vars(self.sampling))
        self.judge = None
        if settings.protocol is not None:
            self.judge = judges.fvd_judge(
                find_protocol(settings.protocol),
                settings.i3d,
                clip_frames=settings.clip_frames,
                mode=settings.real,
            )
        self.real = find_real_videos(self.generator, settings, dataset)
        window_slices(self.generation.task.shown, self.clip_frames)
        check_lengths(self.real.lengths, max(self.clip_frames, self.generation.task.source_frames))
        if self.judge is not None:
            if self.judge.mode == "raw" and self.real.open_raw is None:
                self.real.frames(0, "raw")  # says what is missing
            self.judge.check(
                settings.num_videos, len(self.real.tokens), permit_few=settings.permit_few
            )

    def sample(self, out: Path) -> tuple[list[Path], list[list[Clip]]]:
        """Samples what is missing of each draw; the folders and the contexts."""
        folders, contexts = [], []
        frames = self.generation.task.source_frames
        for seed in self.settings.seeds:
            rng = np.random.default_rng([seed, 1])
            clips = self._contexts(frames, rng)
            real = [self.real.tokens[c.video][c.start : c.start + frames] for c in clips]
            folder = SampleFolder(
                self.generator,
                out / f"samples_seed{seed}",
                np.stack(real),
                seed=seed,
                length=self.generation.task.shown,
                options=vars(self.sampling),
            )
            folder.complete(self.settings.batch_size, gif=False, pixels=False)
            folders.append(out / f"samples_seed{seed}")
            contexts.append(clips)
        return folders, contexts

    def _contexts(self, frames: int, rng: np.random.Generator) -> list[Clip]:
        """Known frames: of all real videos for an FVD, else of the even ones.

        The odd ones are what generated video is compared with (`Judge.reference`).
        """
        step = 2 if self.judge is None else 1
        clips = random_clips(self.real.lengths[::step], self.settings.num_videos, frames, rng)
        return [Clip(video=step * clip.video, start=clip.start) for clip in clips]

    def measure(
        self, sets: list, contexts: list[list[Clip]] | None, *, cache: Path | None
    ) -> tuple[list[Metric], dict[str, str], dict[str, str]]:
        """Measures everything; the metrics, digests of features, and what was left out and why."""
        seeds = self.settings.seeds
        shapes = {drawn.tokens.shape for drawn in sets}
        if len(shapes) > 1:
            raise ValueError(
                f"sets of samples have tokens {sorted(shapes)}; the draws of one evaluation have "
                "as many videos, of one length"
            )
        if self.judge is not None:
            least = (len(sets[0].tokens), len(self.real.tokens))
            self.judge.check(*least, permit_few=self.settings.permit_few)
        draws = [
            Draw(tokens=s.tokens, seed=seed, digest=sha256_of_tokens(s.tokens))
            for s, seed in zip(sets, seeds, strict=True)
        ]
        measurement = Measurement(
            self.real,
            draws,
            window=self.window,
            clip_frames=self.clip_frames,
            seams=sample_sets.seams(self.generation.plan),
            batch_size=self.settings.batch_size,
            cache=cache,
        )
        metrics, left_out = self._bits(), {}
        metrics += measurement.by_tokens(code_groups(self.generator.tokenizer.codebook))
        if not self.is_maze:
            left_out["legal, turning, maze_fd"] = "the videos are not decoded to generated mazes"
        metrics += measurement.by_frames(shipped_reader() if self.is_maze else None)
        if contexts is None:
            left_out["known_psnr, known_ssim"] = "the real videos of given samples are unknown"
        else:
            metrics += self._known(sets, contexts, left_out)
        if self.is_maze and self.clip_frames == maze_features.CLIP_FRAMES:
            metrics += measurement.by_features(judges.maze_judge())
        if self.judge is not None:
            metrics += measurement.by_features(self.judge)
        return metrics, measurement.features, left_out

    def _bits(self) -> list[Metric]:
        """Validation cross-entropy."""
        model, count = self.generator.model, self.settings.bits_clips
        cut = [
            video[start : start + self.window]
            for video in self.real.tokens
            for start in range(0, len(video) - self.window + 1, self.window)
        ]
        if not cut:
            raise ValueError(f"no real video has {self.window} frames, the training window")
        order = np.random.default_rng(0).permutation(len(cut))[:count]
        found = likelihood.bits_per_token(
            lambda params: nnx.merge(model.graphdef, params),
            model.params,
            make_noise_schedule(model.config),
            np.stack([cut[i] for i in order]),
            mask_id=model.config.tokenizer.codebook_size,
            bound=model.config.flow.frame_times == "constant",
        )
        named = {"bits_per_token": found.mean, "bits_per_token.standard_error": found.error}
        named |= {f"bits_per_token.time_{i}": x for i, x in enumerate(found.by_time)}
        named |= {f"bits_per_token.frame_{i:02d}": x for i, x in enumerate(found.by_frame)}
        if found.bound is not None:
            named["bits_per_token_bound"] = found.bound
        return [Metric(name=name, draws=(x,), n=len(order)) for name, x in named.items()]

    def _known(
        self, sets: list, contexts: list[list[Clip]], left_out: dict[str, str]
    ) -> list[Metric]:
        """PSNR and SSIM of known frames against the real ones."""
        mode = "raw" if self.real.open_raw is not None else "reconstructed"
        measures = {"known_psnr": frame_psnr, "known_ssim": frame_ssim}
        if self.generator.tokenizer.identity["frame_size"] < SSIM_WINDOW:
            left_out["known_ssim"] = f"the frames are smaller than the {SSIM_WINDOW} pixels of SSIM"
            del measures["known_ssim"]
        found: dict[str, list[float]] = {name: [] for name in measures}
        for drawn, clips in zip(sets, contexts, strict=True):
            known = int(drawn.known.all(axis=(1, 2)).sum())
            real = list(self.real.clips(clips, known, mode)) if known else []
            ours = [self.real.tokenizer.decode(tokens[:known]) for tokens in drawn.tokens]
            for name, measure in measures.items():
                try:
                    pairs = zip(real, ours, strict=bool(known))
                    values = [measure(a, b).mean() for a, b in pairs]
                except ImportError as error:  # no scikit-image
                    left_out[name], values = str(error), []
                    logging.warning("%s is left out: %s", name, error)
                found[name] += [float(np.mean(values))] if values else []
        count = self.settings.num_videos
        return [Metric(name=name, draws=tuple(x), n=count) for name, x in found.items() if x]

    def speed(self) -> dict[str, Any]:
        """Seconds of a batch of videos, from the median of the windows that were sampled here.

        They are None where all samples were there before.
        """
        generation = self.generator.plan(self.generation.task.shown, **vars(self.sampling))
        batch = min(self.settings.batch_size, self.settings.num_videos)
        return {"seconds": generation.expected_seconds, "batch_size": batch}

    def hashes(self, features: Mapping[str, str]) -> dict[str, Any]:
        """Digests of all that decides the numbers."""
        networks = {} if self.judge is None else {"i3d": self.judge.network.sha256}
        if self.is_maze:
            networks |= {
                "maze_features": judges.maze_judge().network.sha256,
                "motion_reader": sha256_of(motion_reader.SHIPPED),
            }
        return {
            "weights": digest(self.generator.model.params),
            "tokenizer": self.generator.tokenizer.identity["sha256"],
            "dataset": self.real.digest,
            **networks,
            "features": dict(features),
        }

    def protocol_record(self) -> dict[str, Any]:
        """The protocol and the sampling, in full."""
        protocol = None if self.judge is None else dataclasses.asdict(self.judge.protocol)
        return {
            "fvd": protocol,
            "real": self.real.name,
            "num_real": len(self.real.tokens),
            "sampling": to_dict(self.sampling),
            "nfe": self.generation.nfe,
            "step": self.generator.model.step,
        }


def find_real_videos(
    generator: VideoGenerator, settings: EvaluationSettings, dataset: str | Path | None = None
) -> RealVideos:
    """Finds real videos: of a source, of the dataset, or those that lie beside a shipped model.

    Args:
        generator: The model.
        settings: Its fields `source`, `source_settings` and `num_real` decide.
        dataset: Folder of the dataset, if it has moved.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they cannot be read.
    """
    tokenizer, split = generator.tokenizer, generator.model.config.data.validation_split
    if settings.source is not None:
        return from_source(
            settings.source,
            settings.source_settings,
            tokenizer,
            fps=generator.fps,
            num_videos=settings.num_real,
        )
    shipped = trained_model.shipped_contexts(generator.model, split)
    if shipped is not None and dataset is None:
        return from_tokens(shipped[: settings.num_real], tokenizer, "contexts of the shipped model")
    videos = trained_model.find_dataset(generator.model, split, dataset)
    count = min(len(videos), settings.num_real or len(videos))
    tokens = (videos[i]["tokens"] for i in range(count))
    return from_tokens(tokens, tokenizer, f"dataset, split {split}")


def decodes_mazes(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is the shipped one of the generated mazes."""
    return tokenizer.identity["sha256"] == _maze_tokenizer_digest()


@functools.cache
def _maze_tokenizer_digest() -> str:
    return Tokenizer.load("maze").identity["sha256"]
