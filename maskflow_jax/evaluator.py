"""Evaluates a model: samples, measures, and writes a receipt that can be verified.

    import maskflow_jax as mf

    receipt = mf.evaluate("runs/maze", "evaluations/maze", mf.EvaluationSettings(length=80))
    checks = mf.verify_receipt("evaluations/maze/receipt.json")

Started again in the same folder with the same settings, an interrupted evaluation goes on: samples
that are there are not sampled again, nor features extracted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskflow_jax.evaluation import receipts
from maskflow_jax.evaluation.real_videos import Clip
from maskflow_jax.evaluation.receipts import Check
from maskflow_jax.evaluation.report import floors_of, window_rows, write_drift, write_table
from maskflow_jax.evaluation.settings import EvaluationSettings
from maskflow_jax.generation import sample_sets
from maskflow_jax.generation.assessment import Assessment

RECEIPT = "receipt.json"


def evaluate(
    model: str | Path,
    out: str | Path,
    settings: EvaluationSettings | None = None,
    *,
    samples: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    dataset: str | Path | None = None,
    features: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluates a model and writes `receipt.json`, a table, and curves of the drift.

    Args:
        model: A run, an exported model or the name of a shipped one.
        out: Folder of the samples, the features and the receipt.
        settings: What to measure.
        samples: Folders of samples of this model to measure instead of sampling, one per draw.
        tokenizer: Folder of the tokenizer, if it is not where the config says.
        dataset: Folder of the dataset, likewise.
        features: Folder in which features are kept, which evaluations may share; `out/features` by
            default.

    Returns:
        The receipt.

    Raises:
        FileNotFoundError: If the model, its tokenizer, real videos or I3D weights are missing.
        FileExistsError: If the folder holds samples of other settings.
        ValueError: If a file is damaged or of another model, or there is too little video.

    Example:
        evaluate("maze", "out", EvaluationSettings(source="maze", num_videos=16))
    """
    out, settings = Path(out), settings or EvaluationSettings()
    assessment = Assessment(model, settings, tokenizer=tokenizer, dataset=dataset)
    contexts = None
    if samples:
        folders = [Path(folder) for folder in samples]
        if len(folders) != len(settings.seeds):
            raise ValueError(
                f"{len(folders)} folders of samples and {len(settings.seeds)} seeds: give as many "
                "seeds as folders"
            )
    else:
        folders, contexts = assessment.sample(out)
    sets = [sample_sets.read_samples(folder, assessment.generator) for folder in folders]
    cache = out / "features" if features is None else Path(features)
    metrics, digests, left_out = assessment.measure(sets, contexts, cache=cache)
    sections = {
        "protocol": assessment.protocol_record(),
        "settings": dataclasses.asdict(settings) | {"length": int(sets[0].tokens.shape[1])},
        "hashes": assessment.hashes(digests),
        "files": receipts.hash_files(folders, sample_sets.PATTERN),
        "contexts": None if contexts is None else [_places(clips) for clips in contexts],
        "left_out": left_out,
        "speed": assessment.speed(),
        "places": {
            "model": str(model),
            "samples": [sample_sets.relative(folder, out) for folder in folders],
        },
    }
    receipt = receipts.make_receipt(sections, metrics)
    receipts.write_receipt(out / RECEIPT, receipt)
    write_table({out.name: receipt}, out / "table")
    metrics = receipt["metrics"]
    write_drift(window_rows(metrics), out / "drift", floors_of(metrics))
    return receipt


def verify_receipt(
    path: str | Path,
    *,
    model: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dataset: str | Path | None = None,
    i3d: str | Path | None = None,
) -> list[Check]:
    """Recomputes the numbers of a receipt from the stored samples.

    Args:
        path: The receipt.
        model: The model, if it has moved.
        tokenizer: Folder of its tokenizer, likewise.
        dataset: Folder of its dataset, likewise.
        i3d: File of the I3D weights, likewise.

    Returns:
        What holds and what does not: sections, files, digests and, where those hold, every number.

    Raises:
        FileNotFoundError: If the receipt or the model is missing.
        ValueError: If it is no receipt, or of a newer format.
    """
    path = Path(path)
    receipt = receipts.read_receipt(path)
    checks = receipts.check_sections(receipt)
    if not all(check.holds for check in checks):
        return checks
    folders = [path.parent / folder for folder in receipt["places"]["samples"]]
    for folder, expected in zip(folders, receipt["files"], strict=True):
        checks += receipts.check_files(folder, expected)
    if not all(check.holds for check in checks):
        return checks
    stored = receipt["settings"] | ({} if i3d is None else {"i3d": str(i3d)})
    settings = EvaluationSettings(**stored)
    place = receipt["places"]["model"] if model is None else model
    assessment = Assessment(place, settings, tokenizer=tokenizer, dataset=dataset)
    sets = [sample_sets.read_samples(folder, assessment.generator) for folder in folders]
    contexts = receipt["contexts"]
    if contexts is not None:
        contexts = [[Clip(video=v, start=s) for v, s in draw] for draw in contexts]
    metrics, features, _ = assessment.measure(sets, contexts, cache=None)
    found, bitwise = assessment.hashes(features), receipts.same_machine(receipt)
    for name, digest_there in receipt["hashes"].items():
        if name != "features":
            checks.append(receipts.check_hash(name, digest_there, found[name]))
    if bitwise:
        for name, digest_there in receipt["hashes"]["features"].items():
            checks.append(receipts.check_hash(f"features {name}", digest_there, features[name]))
    return checks + receipts.compare(receipt, metrics)


def _places(clips: Sequence[Clip]) -> list[list[int]]:
    return [[clip.video, clip.start] for clip in clips]
