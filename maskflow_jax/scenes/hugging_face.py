"""Text encoders of Hugging Face from a folder on disk: T5, CLIP and whatever else encodes text.

Needs the extra `text` (transformers and torch). Nothing is downloaded and no code of a folder runs.
Captions are encoded once, before training, and for samples; training itself needs neither package.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskflow_jax.io.files import sha256_of
from maskflow_jax.scenes.encoders import Encoded, check_length
from maskflow_jax.scenes.settings import ConditionsRecord


class HuggingFaceEncoder:
    """Embeds captions by the last hidden states of a text encoder.

    Args:
        directory: Folder with config, weights and tokenizer, as `save_pretrained` writes them.
        length: Number of tokens Lt that a caption may have, end token included.

    Attributes:
        record: Its identity: the digest of the folder's files.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no model.
        ImportError: if transformers or torch is missing.
        ValueError: if the folder cannot be read.
    """

    def __init__(self, directory: str | Path, *, length: int = 64):
        self._directory = Path(directory)
        if not (self._directory / "config.json").is_file():
            raise FileNotFoundError(
                f"no text encoder at {directory} (config.json is missing): give a folder that "
                "holds a model and its tokenizer"
            )
        if length < 1:
            raise ValueError(f"length is {length}; a caption needs at least one token")
        transformers = _transformers()
        try:
            config = transformers.AutoConfig.from_pretrained(self._directory, local_files_only=True)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                self._directory, local_files_only=True
            )
            kind = _model_class(transformers, config.model_type)
            self._model = kind.from_pretrained(self._directory, local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"the text encoder in {directory} cannot be read: {error}; copy it again, with its "
                "tokenizer"
            ) from error
        sizes = self._model.config
        self.record = ConditionsRecord(
            kind="embeddings",
            name=self._directory.resolve().name,
            sha256=digest_of_folder(self._directory),
            length=length,
            width=int(getattr(sizes, "d_model", None) or sizes.hidden_size),
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Embeds captions; ValueError for one that is empty or has too many tokens."""
        import torch

        length = self.record.length
        for text in texts:
            tokens = len(self._tokenizer(text)["input_ids"])
            check_length(text, tokens if text.strip() else 0, length, "tokens")
        batch = self._tokenizer(
            list(texts), padding="max_length", max_length=length, return_tensors="pt"
        )
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            hidden = self._model(**inputs).last_hidden_state
        mask = batch["attention_mask"].numpy().astype(bool)
        captions = np.where(mask[..., None], hidden.float().numpy(), 0.0)
        # As they are stored beside datasets, so that both are the same to the bit.
        captions = captions.astype(np.float16).astype(np.float32)
        return Encoded(captions=captions, caption_mask=mask)


def digest_of_folder(directory: Path) -> str:
    """SHA-256 of the names and contents of a folder's files, hidden ones left out."""
    files = sorted(path for path in Path(directory).iterdir() if path.is_file())
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in files if path.name[0] != "."]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@functools.cache
def _transformers() -> Any:
    try:
        import torch  # noqa: F401 (transformers imports without it, and then has no models)
        import transformers
    except ImportError as error:
        raise ImportError(
            "captions are embedded with transformers and torch: install the extra `text` "
            "(pip install 'maskflow_jax[text]')"
        ) from error
    return transformers


def _model_class(transformers: Any, model_type: str) -> Any:
    """The class that holds the text encoder of a folder alone."""
    named = {
        "t5": "T5EncoderModel",
        "mt5": "MT5EncoderModel",
        "umt5": "UMT5EncoderModel",
        "clip": "CLIPTextModel",
        "clip_text_model": "CLIPTextModel",
    }
    return getattr(transformers, named.get(model_type, "AutoModel"))
