"""Evaluation from a run to a receipt that verifies, and everything that makes one fail."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import maskflow_jax as mf
from maskflow_jax.evaluation import judges
from maskflow_jax.evaluation.features import FeatureNetwork
from maskflow_jax.evaluation.frechet import frechet_distance
from maskflow_jax.evaluation.protocols import PROTOCOLS
from maskflow_jax.generation.sample_folder import SampleFolder

pytest.importorskip("matplotlib")
SETTINGS = {"num_videos": 3, "seeds": (0, 1), "length": 8, "clip_frames": 4, "bits_clips": 4}
SETTINGS |= {"sampling": ("sampler.num_steps=2", "context_frames=2")}

FVD = {"protocol": "videogpt", "i3d": "i3d.npz", "real": "reconstructed"}


def colour_network(clip_frames):
    """Stands for I3D: the mean colour of each quarter of a frame, over the frames."""

    def apply(params, clips):
        x = clips.astype(jnp.float32).reshape(len(clips), clip_frames, 2, 4, 2, 4, 3)
        return params * x.mean(axis=(1, 3, 5)).reshape(len(clips), 12)

    return FeatureNetwork(
        name="colours",
        sha256="c" * 64,
        clip_frames=clip_frames,
        frame_size=8,
        dimensions=12,
        params=jnp.float32(1.0),
        apply=apply,
    )


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    def features(protocol, weights, clip_frames):
        return colour_network(clip_frames)

    monkeypatch.setattr(judges, "fvd_features", features)
    monkeypatch.setattr(judges, "check_amount", lambda *_, **__: None)  # I3D's own limits
    with tiny.quick_compilation():
        yield


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A finished evaluation with an FVD, for tests that copy it."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    with pytest.MonkeyPatch.context() as patch, tiny.quick_compilation():
        patch.setattr(judges, "fvd_features", lambda p, w, frames: colour_network(frames))
        patch.setattr(judges, "check_amount", lambda *_, **__: None)
        settings = mf.EvaluationSettings(**SETTINGS | FVD)
        return out, mf.evaluate(tiny_run, out, settings)


@pytest.fixture
def copied(evaluated, tmp_path):
    shutil.copytree(evaluated[0], tmp_path / "copy")
    return tmp_path / "copy"


def failed(checks):
    return [str(check).removeprefix("FAILS  ") for check in checks if not check.holds]


def test_a_receipt_says_all_and_verifies(evaluated):
    out, receipt = evaluated
    assert json.loads((out / "receipt.json").read_text()) == receipt
    metrics = receipt["metrics"]
    names = {"bits_per_token", "unigram", "entropy", "code_usage", "motion_energy", "seam"}
    names |= {"known_psnr", "fvd_videogpt_4f", "kvd_videogpt_4f", "fvd_videogpt_4f.2x"}
    assert names <= metrics.keys()
    assert metrics["known_psnr"]["mean"] == 100  # the context was left as it was
    assert metrics["fvd_videogpt_4f"]["n"] == 3 and len(metrics["unigram"]["draws"]) == 2
    assert metrics["unigram"]["floor"] > 0
    assert receipt["left_out"].keys() == {"legal, turning, maze_fd", "known_ssim"}
    assert "smaller than the 11" in receipt["left_out"]["known_ssim"]
    assert (out / "drift.csv").read_text().startswith("window,entropy,")
    assert receipt["protocol"]["fvd"]["ddof"] == 1
    assert set(receipt["hashes"]) == {"weights", "tokenizer", "dataset", "i3d", "features"}
    for name in ("table.md", "table.csv", "table.png", "drift.png"):
        assert (out / name).is_file()
    checks = mf.verify_receipt(out / "receipt.json")
    assert not failed(checks)
    assert {check.how for check in checks if check.name in metrics} == {"bitwise"}


def test_the_distance_of_a_receipt_is_that_of_its_samples(evaluated):
    """By hand: the features of the first windows against those of the protocol's real clips."""
    out, receipt = evaluated
    generator = mf.VideoGenerator.load(receipt["places"]["model"])
    network = colour_network(4)
    real = [generator._videos("test")[i]["tokens"] for i in range(3)]
    clips = judges.random_clips([len(v) for v in real], 3, 4, np.random.default_rng([0, 0]))
    decoded = [generator.tokenizer.decode(real[c.video][c.start : c.start + 4]) for c in clips]
    ours = [np.load(path)["tokens"][:4] for path in sorted(out.glob("samples_seed0/*.npz"))]
    ours = [generator.tokenizer.decode(tokens) for tokens in ours]
    features = [np.asarray(network.apply(1.0, np.stack(part))) for part in (ours, decoded)]
    expected = frechet_distance(*features, ddof=1, root="svd_float32")
    found = receipt["metrics"]["fvd_videogpt_4f"]["draws"][0]
    assert found == pytest.approx(expected, rel=1e-3)
    assert PROTOCOLS["videogpt"].root == "svd_float32"


def test_an_edited_receipt_fails_by_name(copied):
    path = copied / "receipt.json"
    receipt = json.loads(path.read_text())
    receipt["metrics"]["unigram"]["mean"] = 0.0
    path.write_text(json.dumps(receipt))
    assert failed(mf.verify_receipt(path)) == ["section metrics: it was edited"]
    # A forged digest does not help: the number is recomputed.
    from maskflow_jax.io.files import sha256_of_json

    receipt["digests"]["metrics"] = sha256_of_json(receipt["metrics"])
    path.write_text(json.dumps(receipt))
    (found,) = failed(mf.verify_receipt(path))
    assert found.startswith("unigram: 0.0 there,")


def test_changed_samples_and_other_weights_fail_by_name(copied, tiny_run, tmp_path):
    sample = copied / "samples_seed1/sample_00002.npz"
    sample.write_bytes(sample.read_bytes() + b" ")
    assert failed(mf.verify_receipt(copied / "receipt.json")) == [f"file {sample}: it was changed"]


def test_a_killed_evaluation_goes_on(evaluated, tiny_run, tmp_path, monkeypatch):
    """Killed while the second draw is sampled: the first is not sampled again."""
    settings = mf.EvaluationSettings(**SETTINGS | FVD)
    complete, completed = SampleFolder.complete, []

    def kill(self, *arguments, **options):
        completed.append(complete(self, *arguments, **options))
        if len(completed) == 1:
            raise KeyboardInterrupt
        return completed[-1]

    monkeypatch.setattr(SampleFolder, "complete", kill)
    with pytest.raises(KeyboardInterrupt):
        mf.evaluate(tiny_run, tmp_path, settings)
    assert not (tmp_path / "receipt.json").exists()
    receipt = mf.evaluate(tiny_run, tmp_path, settings)
    assert completed == [3, 0, 3]  # samples written by each call
    assert receipt["metrics"] == evaluated[1]["metrics"]


def test_given_samples_are_measured_and_others_refused(evaluated, tiny_run, tmp_path):
    out, receipt = evaluated
    one = mf.EvaluationSettings(**SETTINGS | {"seeds": (0,)})
    given = mf.evaluate(tiny_run, tmp_path / "a", one, samples=[out / "samples_seed0"])
    assert "known_psnr, known_ssim" in given["left_out"]
    assert not {"known_psnr", "known_ssim"} & given["metrics"].keys()
    entropy = given["metrics"]["entropy"]
    assert entropy["draws"] == receipt["metrics"]["entropy"]["draws"][:1]
    assert entropy["std"] is None
    assert not failed(mf.verify_receipt(tmp_path / "a/receipt.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no samples in"):
        mf.evaluate(tiny_run, tmp_path / "b", one, samples=[tmp_path / "empty"])
    with pytest.raises(ValueError, match="1 folders of samples and 2 seeds"):
        two = mf.EvaluationSettings(**SETTINGS)
        mf.evaluate(tiny_run, tmp_path / "b", two, samples=[out / "samples_seed0"])
    other = tmp_path / "other"
    shutil.copytree(out / "samples_seed0", other)
    settings = json.loads((other / "settings.json").read_text())
    (other / "settings.json").write_text(json.dumps(settings | {"weights": "0" * 64}))
    with pytest.raises(ValueError, match="of another model or another step"):
        mf.evaluate(tiny_run, tmp_path / "b", one, samples=[other])
    (other / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"has no settings\.json"):
        mf.evaluate(tiny_run, tmp_path / "b", one, samples=[other])
    shutil.copytree(out / "samples_seed1", tmp_path / "fewer")
    (tmp_path / "fewer/sample_00002.npz").unlink()
    with pytest.raises(ValueError, match=r"sets of samples have tokens \[\(2, 8, 4, 4\), \(3, 8"):
        two = mf.EvaluationSettings(**SETTINGS)
        folders = [out / "samples_seed0", tmp_path / "fewer"]
        mf.evaluate(tiny_run, tmp_path / "b", two, samples=folders)
    with pytest.raises(FileExistsError, match="holds samples of other settings"):
        mf.evaluate(
            tiny_run, copied_into(out, tmp_path), mf.EvaluationSettings(**SETTINGS | {"length": 9})
        )


def copied_into(out, tmp_path):
    shutil.copytree(out, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "styleganv"}, "protocol styleganv needs the argument i3d"),
        ({"protocol": "fvd"}, "unknown protocol 'fvd'"),
        ({"real": "mp4"}, "real is 'mp4': choose one of raw, reconstructed"),
        ({"seeds": (1, 1)}, "give one or more that differ"),
        ({"num_videos": 1}, "num_videos is 1; use 2 or more"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mf.EvaluationSettings(**changes)


def test_what_a_run_cannot_be_measured_on_is_said_before_sampling(tiny_run, tmp_path):
    raw = {"protocol": "styleganv", "i3d": "i3d.npz"}
    with pytest.raises(ValueError, match="no raw frames: name a source"):
        mf.evaluate(tiny_run, tmp_path, mf.EvaluationSettings(**SETTINGS | raw))
    with pytest.raises(ValueError, match="windows of 16 frames of videos of 8"):
        mf.evaluate(tiny_run, tmp_path, mf.EvaluationSettings(**SETTINGS | {"clip_frames": None}))
    with pytest.raises(ValueError, match=r"no setting 'sampling\.strid'"):
        mf.evaluate(tiny_run, tmp_path, mf.EvaluationSettings(sampling=("strid=1",)))
    assert not any(tmp_path.iterdir())
