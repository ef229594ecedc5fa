"""Generated videos: tokens, frames, files, and a player in notebooks."""

import base64
import dataclasses
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from maskflow_jax.generation.scenes import SceneTexts
from maskflow_jax.io import video_files
from maskflow_jax.io.files import write_with
from maskflow_jax.tokenizers.tokenizer import Tokenizer

SHOWN_SIDE = 256  # smaller frames are enlarged by a whole factor for players
MAX_GIF_FRAMES = 200


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Videos:
    """A batch of videos.

    Attributes:
        tokens: int32 [B, L, h, w].
        known: Tokens that were given, bool [L, h, w].
        fps: Frames per second.
        tokenizer: The tokenizer that decodes them.
        nfe: Number of network evaluations for each video.
        texts: Captions of the scenes and their frames, or None.
    """

    tokens: np.ndarray
    known: np.ndarray
    fps: float
    tokenizer: Tokenizer
    nfe: int
    texts: SceneTexts | None = None

    @cached_property
    def frames(self) -> np.ndarray:
        """Decoded frames, uint8 [B, L, S, S, 3]."""
        return np.stack([self.tokenizer.decode(tokens) for tokens in self.tokens])

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator["Videos"]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice) -> "Videos":
        rows = slice(index, index + 1) if isinstance(index, int) and index >= 0 else index
        if isinstance(rows, int):  # from the end
            rows = slice(len(self) + rows, len(self) + rows + 1)
        texts = self.texts
        if texts is not None:
            texts = texts.of_videos(range(len(self))[rows])
        return dataclasses.replace(self, tokens=self.tokens[rows], texts=texts)

    def extended(self, chunks: list[np.ndarray], texts: SceneTexts, *, nfe: int) -> "Videos":
        """Returns the videos with further frames at their end.

        Args:
            chunks: New tokens, int [B, f, h, w] each.
            texts: Captions of all scenes, old and new.
            nfe: Number of network evaluations of the new frames.
        """
        tokens = np.concatenate([self.tokens, *chunks], axis=1).astype(np.int32)
        new = tokens.shape[1] - self.tokens.shape[1]
        known = np.pad(self.known, [(0, new), (0, 0), (0, 0)])
        return dataclasses.replace(
            self, tokens=tokens, known=known, texts=texts, nfe=self.nfe + nfe
        )

    def __repr__(self) -> str:
        count, length = self.tokens.shape[:2]
        seconds = length / self.fps
        return f"{count} videos of {length} frames ({seconds:.1f} s), {self.nfe} NFE each"

    def _repr_html_(self) -> str:
        """The player of a notebook: one video tag with all videos side by side, embedded."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "videos.mp4"
            together = video_files.side_by_side(list(self.frames))
            upscale = max(1, SHOWN_SIDE // self.frames.shape[2])
            video_files.write_mp4(path, together, self.fps, upscale=upscale)
            data = base64.b64encode(path.read_bytes()).decode()
        return (
            f"<p>{self!r}</p><video controls loop autoplay muted playsinline "
            f'src="data:video/mp4;base64,{data}"></video>'
        )

    def save(
        self,
        directory: str | Path,
        *,
        first: int = 0,
        gif: bool | None = None,
        pixels: bool = True,
    ) -> list[Path]:
        """Writes `sample_00000.npz`, `.mp4` and so on.

        The tokens are written first: pixels can be made from them again. Each file appears whole.

        Args:
            directory: Folder, created if missing.
            first: Number of the first video.
            gif: Whether GIFs are written too; None writes them for at most 200 frames.
            pixels: Whether anything but the tokens is written.

        Returns:
            Paths of the files of tokens.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        gif = self.tokens.shape[1] <= MAX_GIF_FRAMES if gif is None else gif
        paths = []
        for number, tokens in enumerate(self.tokens, start=first):
            stem = directory / f"sample_{number:05d}"
            path = stem.with_suffix(".npz")
            texts = None if self.texts is None else self.texts.of_video(number - first)
            save_tokens(path, tokens, self.known, self.fps, self.tokenizer, texts)
            paths.append(path)
            if not pixels:
                continue
            frames = self.tokenizer.decode(tokens)
            upscale = max(1, SHOWN_SIDE // frames.shape[1])
            video_files.write_mp4(stem.with_suffix(".mp4"), frames, self.fps, upscale=upscale)
            if gif:
                video_files.write_gif(stem.with_suffix(".gif"), frames, self.fps, upscale=upscale)
        return paths


def save_tokens(
    path: Path,
    tokens: np.ndarray,
    known: np.ndarray,
    fps: float,
    tokenizer: Tokenizer,
    texts: SceneTexts | None = None,
) -> None:
    """Writes the tokens of one video as npz: `tokens`, `known`, `fps`, and the tokenizer's digest.

    With captions there are also `captions` [S] and `scene_id` [F], the caption of every frame.

    Args:
        path: The file.
        tokens: int [F, h, w].
        known: Tokens that were given, bool [F, h, w].
        fps: Frames per second.
        tokenizer: The tokenizer that decodes them.
        texts: Captions of the video's scenes.
    """
    more = {}
    if texts is not None:
        more = {"captions": np.array(texts.captions[0]), "scene_id": texts.scene_id[0]}

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(
                file,
                tokens=tokens.astype(np.int32),
                known=known,
                fps=fps,
                tokenizer=tokenizer.identity["sha256"],
                **more,
            )

    write_with(path, write)
