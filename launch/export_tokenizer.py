r"""Writes any torch tokenizer as programs that this project runs without the tokenizer's code.

    python -m launch.export_tokenizer tokenizers/mine --module=my_package.my_file:make_tokenizer \
        --frame_size=256 --codebook_size=8192

calls `make_tokenizer()`, which loads the weights and returns an object with `encode` (images
float32 [B, 3, S, S] in [-1, 1] to integers [B, h, w]) and `decode` (int64 [B, h, w] to images), or
a pair of such functions or modules. A few lines of your own turn any tokenizer into that:

    class Tokenizer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = load_my_model()

        def encode(self, images):
            return self.model.quantise(self.model.encoder(images)).indices

        def decode(self, tokens):
            return self.model.decoder(self.model.codes(tokens))

What is written is loaded again and compared with the original. The result goes wherever a tokenizer
goes (`--tokenizer=tokenizers/mine`) and needs `pip install ".[torch]"` there. It is code: share and
load it as you would a script.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from launch.startup import start
from maskflow_jax.tokenizers.exporting import export_tokenizer

_MODULE = flags.DEFINE_string("module", None, "package.module:function that makes the tokenizer.")
_FRAME_SIZE = flags.DEFINE_integer("frame_size", None, "Side of the frames in pixels.")
_CODEBOOK_SIZE = flags.DEFINE_integer("codebook_size", None, "Number of different tokens.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Fixed number of frames at a time; by default any number."
)
flags.mark_flags_as_required(["module", "frame_size", "codebook_size"])


def make_tokenizer(name: str) -> Any:
    """Calls the function `package.module:function`, found from the current folder too."""
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"--module={name} names no function; write package.module:function")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return getattr(importlib.import_module(module), function)()


def main(argv: list[str]) -> None:
    """Writes the tokenizer's folder."""
    if len(argv) != 2:
        raise app.UsageError("give one argument: the folder to write")
    start()
    tokenizer = export_tokenizer(
        make_tokenizer(_MODULE.value),
        argv[1],
        frame_size=_FRAME_SIZE.value,
        codebook_size=_CODEBOOK_SIZE.value,
        batch_size=_BATCH_SIZE.value,
    )
    logging.info("wrote %s: %s", argv[1], tokenizer.identity)


if __name__ == "__main__":
    app.run(main)
