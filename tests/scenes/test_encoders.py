"""Labels, words and embeddings of captions as arrays, and what cannot be encoded."""

import dataclasses

import numpy as np
import pytest

from maskflow_jax.scenes.conditions import NULL_LABEL
from maskflow_jax.scenes.embeddings import CaptionEmbeddings, write_embeddings
from maskflow_jax.scenes.encoders import (
    Encoded,
    LabelEncoder,
    WordEncoder,
    check_encoder,
    words_of,
)
from maskflow_jax.scenes.settings import ConditionsRecord

WORDS = WordEncoder(("and", "blue", "red", "walls"), 4)


class Spelling:
    """An encoder for tests: a letter is a token, and its number an embedding."""

    def __init__(self, width=2, length=20):
        self.record = ConditionsRecord(
            kind="embeddings", name="spelling", sha256="5", length=length, width=width
        )

    def encode(self, texts):
        shape = (len(texts), self.record.length, self.record.width)
        captions, mask = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
        for row, text in enumerate(texts):
            captions[row, : len(text)] = np.array([ord(c) for c in text])[:, None]
            mask[row, : len(text)] = True
        return Encoded(captions=captions, caption_mask=mask)


def test_words_are_numbers_without_case_and_punctuation():
    assert words_of("Red, and BLUE walls: don't") == ["red", "and", "blue", "walls", "don't"]
    encoded = WORDS.encode(["Red walls.", "blue and red walls"])
    np.testing.assert_array_equal(encoded.captions, [[2, 3, 0, 0], [1, 0, 2, 3]])
    np.testing.assert_array_equal(encoded.caption_mask, [[1, 1, 0, 0], [1, 1, 1, 1]])


def test_scenes_that_are_not_there_say_nothing():
    words = WORDS.encode(["red walls", "blue walls"]).rows([1, -1])
    np.testing.assert_array_equal(words.caption_mask, [[1, 1, 0, 0], [0, 0, 0, 0]])
    labels = LabelEncoder(["a", "b"]).encode(["b", "a"]).rows([0, -1, 1])
    np.testing.assert_array_equal(labels.labels, [1, NULL_LABEL, 0])


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda: WORDS.encode([" "]), "is empty; say what"),
        (lambda: WORDS.encode(["red " * 5]), "has 5 words, the network takes 4; shorten"),
        (lambda: WORDS.encode(["blues walls"]), "unknown word 'blues' .did you mean 'blue'"),
        (lambda: LabelEncoder(["left", "right"]).encode(["lef"]), "unknown label 'lef' .did you"),
        (lambda: WordEncoder([], 3), "0 different words; embeddings are learned of 1 to"),
    ],
)
def test_what_cannot_be_encoded(encode, message):
    with pytest.raises(ValueError, match=message):
        encode()


def test_embeddings_come_back_from_the_dataset(tmp_path):
    captions = ["a walk", "b", "a walk", "turning"]
    write_embeddings(tmp_path, captions, Spelling(), batch_size=2)
    read = CaptionEmbeddings(tmp_path)
    assert read.record == Spelling().record
    for encoder in (read, CaptionEmbeddings(*read.__reduce__()[1])):
        found, wanted = encoder.encode(["b", "turning"]), Spelling().encode(["b", "turning"])
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="'never' is not in"):
        read.encode(["never"])
    with pytest.raises(ValueError, match="has no captions"):
        write_embeddings(tmp_path, [], Spelling())
    (tmp_path / "captions.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="is damaged"):
        CaptionEmbeddings(tmp_path)
    with pytest.raises(FileNotFoundError, match="not encoded"):
        CaptionEmbeddings(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "change", [{"width": 3}, {"sha256": "6"}, {"kind": "words"}, {"length": 9}, {"names": ("a",)}]
)
def test_another_encoder_is_refused_by_what_differs(change):
    record = Spelling().record
    check_encoder(dataclasses.replace(record, name="moved"), record, other_name="trained model")
    with pytest.raises(ValueError, match=rf"{next(iter(change))} differ: encode"):
        check_encoder(dataclasses.replace(record, **change), record, other_name="trained model")


def test_a_record_is_of_a_known_kind():
    with pytest.raises(ValueError, match="it is labels, words or embeddings"):
        ConditionsRecord(kind="sounds")
