"""From labels and captions to the arrays that a network takes, one row for each scene.

An encoder has a `record`, which a run keeps and which is compared like a tokenizer's identity, and
`encode`. Labels and words need nothing but the names that the dataset lists. Embeddings of a text
encoder are read from the dataset (`embeddings.CaptionEmbeddings`) or computed by the encoder itself
(`hugging_face.HuggingFaceEncoder`).
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from maskflow_jax.io.files import sha256_of_json
from maskflow_jax.scenes.conditions import NULL_LABEL, Scenes
from maskflow_jax.scenes.records import Scene
from maskflow_jax.scenes.settings import ConditionsRecord

MAX_WORDS = 4_096  # different words of captions of which embeddings are learned


class Encoded(NamedTuple):
    """Conditions of N scenes; the arrays of `conditions.Scenes` without a batch axis.

    Attributes:
        labels: int32 [N] or None.
        captions: int32 [N, Lt] or float32 [N, Lt, D_text], or None.
        caption_mask: bool [N, Lt] or None.
    """

    labels: np.ndarray | None = None
    captions: np.ndarray | None = None
    caption_mask: np.ndarray | None = None

    def rows(self, index: Sequence[int]) -> "Encoded":
        """Picks scenes; -1 stands for one of which nothing is said."""
        index = np.asarray(index, int)
        picked = [None if a is None else a[index] for a in self]
        if self.labels is not None:
            picked[0] = np.where(index < 0, NULL_LABEL, picked[0]).astype(np.int32)
        if self.caption_mask is not None:
            picked[2] = picked[2] & (index >= 0)[:, None]
        return Encoded(*picked)

    def with_scenes(self, scene_id: np.ndarray) -> Scenes:
        """Returns conditions of a window whose frames are of these scenes."""
        return Scenes(np.asarray(scene_id, np.int32), *self)


class Encoder(Protocol):
    """What turns the texts of scenes into conditions.

    Attributes:
        record: Its identity.
    """

    record: ConditionsRecord

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encodes labels (of kind "labels") or captions; ValueError for one that cannot be."""


def text_of(scene: Scene, record: ConditionsRecord) -> str:
    """What an encoder takes of a scene."""
    return scene.label if record.kind == "labels" else scene.caption


class LabelEncoder:
    """Numbers labels."""

    def __init__(self, names: Sequence[str]):
        self.record = ConditionsRecord(
            kind="labels", names=tuple(names), sha256=sha256_of_json(list(names)), name="labels"
        )
        self._numbers = {name: number for number, name in enumerate(names)}

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Returns the numbers; ValueError for labels that are unknown."""
        if unknown := sorted({text for text in texts if text not in self._numbers}):
            raise ValueError(
                f"unknown label {_with_nearest(unknown[0], self._numbers)}; the network knows "
                f"{_some(self.record.names)}"
            )
        return Encoded(labels=np.array([self._numbers[text] for text in texts], np.int32))


class WordEncoder:
    """Numbers the words of captions, of which the network learns embeddings."""

    def __init__(self, words: Sequence[str], length: int):
        if not 0 < len(words) <= MAX_WORDS:
            raise ValueError(
                f"the captions have {len(words)} different words; embeddings are learned of 1 to "
                f"{MAX_WORDS}: encode the captions with a text encoder, and name it in "
                "scenes.encoder"
            )
        self.record = ConditionsRecord(
            kind="words",
            names=tuple(words),
            sha256=sha256_of_json(list(words)),
            name="words",
            length=length,
        )
        self._numbers = {word: number for number, word in enumerate(words)}

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Returns word ids and which are there; ValueError for unknown words and lengths."""
        length = self.record.length
        captions = np.zeros((len(texts), length), np.int32)
        mask = np.zeros(captions.shape, bool)
        for row, text in enumerate(texts):
            words = words_of(text)
            check_length(text, len(words), length, "words")
            if unknown := [word for word in words if word not in self._numbers]:
                raise ValueError(
                    f"caption {text!r}: unknown word {_with_nearest(unknown[0], self._numbers)}; "
                    f"the network knows {_some(self.record.names)}"
                )
            captions[row, : len(words)] = [self._numbers[word] for word in words]
            mask[row, : len(words)] = True
        return Encoded(captions=captions, caption_mask=mask)


def words_of(text: str) -> list[str]:
    """The words of a caption in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.lower())


def check_length(text: str, tokens: int, length: int, unit: str) -> None:
    """Raises ValueError for a caption without tokens or with too many."""
    if tokens == 0:
        raise ValueError(f"caption {text!r} is empty; say what the scene shows")
    if tokens > length:
        raise ValueError(
            f"caption {text[:60]!r} has {tokens} {unit}, the network takes {length}; shorten it"
        )


def check_encoder(record: ConditionsRecord, other: ConditionsRecord, *, other_name: str) -> None:
    """Checks that conditions are made by the encoder of a network's training.

    Args:
        record: Identity of the encoder at hand.
        other: Identity to compare with.
        other_name: Owner of `other`, such as "trained model".

    Raises:
        ValueError: if they differ in anything but the name.
    """
    fields = ("kind", "sha256", "names", "length", "width")
    differ = [name for name in fields if getattr(record, name) != getattr(other, name)]
    if differ:
        raise ValueError(
            f"the captions are encoded by {_describe(record)}, those of the {other_name} by "
            f"{_describe(other)}; {', '.join(differ)} differ: encode them with the same encoder"
        )


def _describe(record: ConditionsRecord) -> str:
    sizes = [f"{len(record.names)} names"] if record.names else []
    sizes += [f"{record.width} channels"] if record.width else []
    sizes += [f"up to {record.length} tokens"] if record.length else []
    return f"{record.kind} {record.name!r} ({', '.join([f'sha256 {record.sha256[:8]}', *sizes])})"


def _with_nearest(name: str, known: Iterable[Any]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"{name!r}" + (f" (did you mean {nearest[0]!r}?)" if nearest else "")


def _some(names: Sequence[str], count: int = 20) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
