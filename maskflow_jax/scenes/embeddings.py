"""Embeddings of a dataset's captions by a text encoder, beside its records.

`captions.safetensors` holds the embeddings of all tokens of all captions one after the other,
float16, and where each caption ends. Its header has the captions themselves and the identity of the
encoder. Captions are read one at a time, so a file may be larger than memory.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from maskflow_jax.io.files import write_with
from maskflow_jax.scenes.encoders import Encoded, Encoder, check_length
from maskflow_jax.scenes.settings import ConditionsRecord

FILE = "captions.safetensors"


def write_embeddings(
    directory: str | Path, captions: Iterable[str], encoder: Encoder, *, batch_size: int = 32
) -> Path:
    """Encodes captions and writes their embeddings into the folder of a dataset.

    Args:
        directory: The folder; a file that is there is replaced.
        captions: The captions; each is encoded once.
        encoder: A text encoder.
        batch_size: Number of captions encoded at a time.

    Returns:
        Path of the file.

    Raises:
        ValueError: if there is no caption, or one is empty or too long.
    """
    captions = sorted(set(captions))
    if not captions:
        raise ValueError(f"the dataset in {directory} has no captions; prepare it with captions")
    rows = []
    for start in tqdm(range(0, len(captions), batch_size), "captions"):
        encoded = encoder.encode(captions[start : start + batch_size])
        rows += [a[m] for a, m in zip(encoded.captions, encoded.caption_mask, strict=True)]
    arrays = {
        "embeddings": np.concatenate(rows).astype(np.float16),
        "ends": np.cumsum([len(row) for row in rows]).astype(np.int64),
    }
    header = {
        "captions": json.dumps(captions),
        "record": json.dumps(dataclasses.asdict(encoder.record)),
    }
    path = Path(directory) / FILE
    write_with(path, lambda part: save_file(arrays, part, metadata=header))
    return path


class CaptionEmbeddings:
    """The embeddings beside a dataset, as an encoder of its captions.

    Args:
        directory: Folder of the dataset.

    Attributes:
        record: Identity of the text encoder that made them.

    Raises:
        FileNotFoundError: if the captions have not been encoded.
        ValueError: if the file is damaged.
    """

    def __init__(self, directory: str | Path):
        self._directory = Path(directory)
        path = self._directory / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"the captions of {directory} are not encoded ({FILE} is missing): encode them "
                "with the encoder in scenes.encoder, or leave it empty to learn words"
            )
        try:
            header = self._file.metadata()
            record = json.loads(header["record"])
            self._ends = self._file.get_tensor("ends")
            self._numbers = {c: i for i, c in enumerate(json.loads(header["captions"]))}
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): encode the captions again") from error
        self.record = ConditionsRecord(**{**record, "names": tuple(record["names"])})

    def __reduce__(self):
        return CaptionEmbeddings, (self._directory,)

    @functools.cached_property
    def _file(self) -> Any:
        return safe_open(self._directory / FILE, "np")

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Looks captions up; ValueError for one that is not there."""
        shape = (len(texts), self.record.length, self.record.width)
        captions, mask = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
        for row, text in enumerate(texts):
            if text not in self._numbers:
                raise ValueError(
                    f"caption {text[:60]!r} is not in {self._directory / FILE}: encode the "
                    "captions of the dataset again"
                )
            number = self._numbers[text]
            start, stop = self._ends[number - 1] if number else 0, self._ends[number]
            check_length(text, int(stop - start), self.record.length, "tokens")
            captions[row, : stop - start] = self._file.get_slice("embeddings")[start:stop]
            mask[row, : stop - start] = True
        return Encoded(captions=captions, caption_mask=mask)
