"""The card of a run, a text page with its state, hashes, versions, figures and command."""

from pathlib import Path

import jax

from maskflow_jax.config import Config
from maskflow_jax.io.files import sha256_of, write_text
from maskflow_jax.io.provenance import command_line, markdown_table, package_versions
from maskflow_jax.training.curves import METRICS, PICTURE, read_metrics

CARD = "card.md"


def write_run_card(
    workdir: str | Path, config: Config, *, state: str, num_parameters: int, num_videos: int
) -> None:
    """Writes `card.md` into the folder of a run; only the first process does.

    Args:
        workdir: Folder of the run.
        config: Its config.
        state: State of the run, such as "started at step 0".
        num_parameters: Number of parameters of the network.
        num_videos: Number of training videos.
    """
    if jax.process_index() != 0:
        return
    workdir = Path(workdir)
    metrics, data = read_metrics(workdir), config.data
    devices = jax.devices()
    facts = [
        ("state", state),
        ("network", f"{num_parameters / 1e6:.2f} M parameters"),
        (
            "data",
            f"{num_videos} training videos in {data.directory}, validation on the split "
            f"{data.validation_split!r}, clips of {data.clip_frames} frames",
        ),
        ("tokenizer", f"{config.tokenizer.name}, {config.tokenizer.codebook_size} codes"),
        ("devices", f"{len(devices)} x {devices[0].device_kind}, {jax.process_count()} processes"),
        ("versions", package_versions()),
    ]
    hashes = {
        "config.json": workdir / "config.json",
        METRICS: workdir / METRICS,
        "metadata.json of the dataset": Path(data.directory) / "metadata.json",
    }
    digests = [(name, f"`{sha256_of(path)}`") for name, path in hashes.items() if path.is_file()]
    digests.append(("tokenizer", f"`{config.tokenizer.sha256}`"))
    parts = [
        f"# Run {workdir.resolve().name}\n",
        markdown_table("", facts),
        f"The command:\n\n```bash\n{command_line()}\n```\n",
        markdown_table("SHA-256 of", digests),
    ]
    shown = ("validation/cross_entropy", "validation/accuracy", "train/loss")
    last = [
        (f"{name}, step {line[0][-1]}", f"{line[1][-1]:.4f}")
        for name, line in metrics.items()
        if name in shown
    ]
    if last:
        parts.append(markdown_table("last figures", last))
    if (workdir / PICTURE).is_file():
        parts.append(f"![training curves]({PICTURE})\n")
    write_text(workdir / CARD, "\n".join(parts))
