"""The card of a dataset: what is in it, how it was made, and the hashes of its files."""

import json
from pathlib import Path

from maskflow_jax.data.preparation.manifest import Summary
from maskflow_jax.io.files import sha256_of, write_text
from maskflow_jax.io.provenance import markdown_table

CARD = "card.md"


def write_dataset_card(directory: str | Path, summary: Summary) -> None:
    """Writes `card.md` into a dataset.

    It depends on the dataset alone and not on how the work was divided or interrupted, so that two
    equal datasets have equal cards.

    Args:
        directory: The dataset, complete.
        summary: What became of the files of its source.
    """
    directory = Path(directory)
    metadata = json.loads((directory / "metadata.json").read_text())
    tokenizer = metadata["tokenizer"]
    height, width = tokenizer["grid"]
    facts = [
        *(
            (f"split {split}", f"{count} videos, {summary.frames[split]} frames")
            for split, count in summary.videos.items()
        ),
        ("tokens of a frame", f"{height} x {width} of {tokenizer['codebook_size']} codes"),
        ("tokenizer", f"{tokenizer['name']}, SHA-256 `{tokenizer['sha256']}`"),
        ("files of the source", ", ".join(f"{n} {s}" for s, n in sorted(summary.counts.items()))),
    ]
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != CARD)
    settings = json.dumps(metadata.get("source", {}), indent=2, sort_keys=True)
    parts = [
        "# Dataset of video tokens\n",
        markdown_table("", facts),
        "Made by `maskflow_jax.prepare_dataset` from a source of these settings:\n\n"
        f"```json\n{settings}\n```\n",
        "Read it by\n\n```python\nfrom maskflow_jax.data.dataset import read_token_dataset\n\n"
        f'videos = read_token_dataset(".", {next(iter(summary.videos), "train")!r})\n```\n',
        markdown_table("SHA-256 of", ((path.name, f"`{sha256_of(path)}`") for path in files)),
    ]
    write_text(directory / CARD, "\n".join(parts))
