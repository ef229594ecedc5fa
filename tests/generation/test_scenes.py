"""Videos of several scenes: jointly, one after the other, endlessly, with every sampler."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tiny
from absl import flags
from scene_worlds import doubled, said, train_on_scenes, write_scene_world

import maskflow_jax as mf
from launch import sample
from maskflow_jax.generation.job_folder import JobFolder, make_batches
from maskflow_jax.generation.jobs import read_jobs
from maskflow_jax.generation.sample_folder import SampleFolder
from maskflow_jax.generation.scenes import (
    SceneTrack,
    as_rows,
    dataset_texts,
    read_captions,
    window_conditions,
)
from maskflow_jax.generation.trained_model import find_encoder
from maskflow_jax.generation.window_program import WindowProgram
from maskflow_jax.sampling.samplers import SAMPLERS
from maskflow_jax.scenes.encoders import LabelEncoder
from maskflow_jax.scenes.settings import ConditionsRecord

CAPTIONS = ["red walls", "blue walls", "gold walls", "pink walls", "grey walls", "red walls"]
STEPS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_scene_world(tmp_path_factory.mktemp("scene_world"))


@pytest.fixture(scope="module")
def generator(world):
    return train_on_scenes(world)


@pytest.fixture(autouse=True)
def compiled_quickly():
    with tiny.quick_compilation():
        yield


@pytest.fixture
def windows(monkeypatch):
    """Every window that is sampled: known frames, scenes."""
    seen, call = [], WindowProgram.__call__

    def watched(self, params, keys, tokens, known, window, scenes=None):
        seen.append((known[0].all(axis=(1, 2)), scenes))
        return call(self, params, keys, tokens, known, window, scenes)

    monkeypatch.setattr(WindowProgram, "__call__", watched)
    return seen


def test_three_scenes_are_sampled_jointly(generator, windows):
    videos = generator.generate(captions=CAPTIONS[:3], num_videos=2, seed=1)
    assert videos.tokens.shape == (2, 6, 4, 4)
    assert videos.nfe == STEPS and len(windows) == 1
    known, scenes = windows[0]
    assert not known.any()
    assert said(scenes, generator) == doubled(CAPTIONS[:3])
    assert videos.texts.captions == (tuple(CAPTIONS[:3]),)
    np.testing.assert_array_equal(videos.texts.scene_id, [[0, 0, 1, 1, 2, 2]])
    others = generator.generate(captions=CAPTIONS[3:6], num_videos=2, seed=1)
    assert np.any(others.tokens != videos.tokens)


def test_each_video_may_have_captions_of_its_own_and_does_not_depend_on_others(generator):
    rows = [CAPTIONS[:3], CAPTIONS[3:6]]
    videos = generator.generate(captions=rows, seed=2)
    first = generator.generate(captions=rows[0], seed=2)
    np.testing.assert_array_equal(videos.tokens[:1], first.tokens)
    assert videos[1].texts.captions == (tuple(rows[1]),)


def test_extending_shows_the_last_scenes_and_changes_none_of_them(generator, windows):
    start = generator.generate(captions=CAPTIONS[:3], seed=3)
    del windows[:]
    longer = generator.extend(start, captions=CAPTIONS[3:], seed=4)
    assert longer.tokens.shape == (1, 12, 4, 4)
    np.testing.assert_array_equal(longer.tokens[:, :6], start.tokens)
    assert longer.nfe - start.nfe == 3 * STEPS == len(windows) * STEPS
    for number, (known, scenes) in enumerate(windows):
        np.testing.assert_array_equal(known, [True] * 4 + [False] * 2)
        assert said(scenes, generator) == doubled(CAPTIONS[number + 1 : number + 4])
        assert scenes.captions.shape[1] == 3  # as many as the window has scenes
    assert longer.texts.captions == (tuple(CAPTIONS),)
    np.testing.assert_array_equal(longer.texts.scene_id[0], np.arange(12) // 2)
    np.testing.assert_array_equal(longer.known.any(axis=(1, 2)), False)
    again = generator.extend(start, captions=CAPTIONS[3:], seed=4)
    np.testing.assert_array_equal(again.tokens, longer.tokens)
    two = generator.generate(captions=[CAPTIONS[:3], CAPTIONS[3:]], seed=3)
    rows = generator.extend(two, captions=[CAPTIONS[3:4], CAPTIONS[:1]])
    assert rows.texts.captions == ((*CAPTIONS[:4],), (*CAPTIONS[3:], CAPTIONS[0]))


def test_many_scenes_are_the_first_window_and_then_scene_by_scene(generator):
    whole = generator.generate(captions=CAPTIONS, seed=5)
    assert whole.tokens.shape[1] == 12
    streamed = list(generator.stream(captions=CAPTIONS, seed=5))
    assert [chunk.shape[1] for chunk in streamed] == [6, 2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(streamed, axis=1), whole.frames)
    one_by_one = list(generator.stream(captions=iter(CAPTIONS), frames_per_scene=2, seed=5))
    np.testing.assert_array_equal(np.concatenate(one_by_one, axis=1), whole.frames)


def test_a_stream_of_captions_without_end(generator, windows):
    stream = generator.stream(captions=itertools.cycle(CAPTIONS), seed=5)
    chunks = list(itertools.islice(stream, 5))
    assert sum(chunk.shape[1] for chunk in chunks) == 14
    assert said(windows[4][1], generator) == doubled([CAPTIONS[i % 6] for i in (4, 5, 6)])


def test_scenes_longer_than_a_window_roll_out_inside_of_it(generator, windows):
    videos = generator.generate(captions=CAPTIONS[:2], frames_per_scene=8, seed=6)
    assert videos.tokens.shape[1] == 16
    ids = [2 * [CAPTIONS[0]], 2 * [CAPTIONS[1]]]
    assert said(windows[0][1], generator) == 3 * ids[0]
    assert said(windows[2][1], generator) == ids[0] + ids[0] + ids[1]
    assert said(windows[3][1], generator) == ids[0] + 2 * ids[1]
    assert {scenes.captions.shape for _, scenes in windows} == {(1, 2, 2)}  # one program


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_captions(generator, name):
    sampler = SAMPLERS[name](num_steps=2)
    options = {"sampler": sampler, "seed": 7}
    if name == "rolling":
        options |= {"context_frames": 0}
    videos = generator.generate(captions=CAPTIONS[:4], **options)
    assert videos.tokens.shape[1] == 8 and videos.tokens.max() < 8
    other = generator.generate(captions=CAPTIONS[2:6], **options)
    assert np.any(videos.tokens != other.tokens)


def test_known_patterns_backward_video_and_loops_have_captions(generator, windows):
    real = generator.read_context(frames=6)
    mask = np.ones((6, 4, 4), bool)
    mask[:, 1:3] = False
    kept = generator.generate(real, length=6, task="inpaint", known=mask, captions=CAPTIONS[:3])
    np.testing.assert_array_equal(kept.tokens[:, mask], real[:, mask])
    assert said(windows[-1][1], generator) == doubled(CAPTIONS[:3])
    backward = generator.generate(real[:, :2], task="backward", captions=CAPTIONS[:3])
    assert said(windows[-1][1], generator) == doubled(CAPTIONS[2::-1])
    np.testing.assert_array_equal(backward.tokens[:, -2:], real[:, :2])
    generator.generate(real, task="loop", captions=CAPTIONS[:2], context_frames=1)
    assert said(windows[-1][1], generator)[:5] == [*doubled(CAPTIONS[:2]), CAPTIONS[0]]


def test_guidance_of_weight_one_is_the_network(generator):
    plain = generator.generate(captions=CAPTIONS[:3], seed=8)
    one = generator.generate(captions=CAPTIONS[:3], seed=8, guidance=1.0)
    np.testing.assert_array_equal(plain.tokens, one.tokens)
    assert one.nfe == plain.nfe
    strong = generator.generate(captions=CAPTIONS[:3], seed=8, guidance=4.0)
    assert strong.nfe == 2 * plain.nfe
    assert np.any(strong.tokens != plain.tokens)
    zero = generator.generate(captions=CAPTIONS[:3], seed=8, guidance=0.0)
    nothing = generator.generate(length=6, task="unconditional", seed=8)
    np.testing.assert_array_equal(zero.tokens, nothing.tokens)
    start = generator.read_context(frames=4)
    both = mf.Guidance(weight=1.5, captions=3.0)
    composed = generator.generate(start, captions=CAPTIONS[:3], guidance=both)
    assert composed.nfe == 4 * STEPS
    partial = generator.generate(start, captions=CAPTIONS[:3], guidance=mf.Guidance(weight=1.5))
    assert np.any(partial.tokens != composed.tokens)


def test_a_cached_context_gives_the_same_scenes(generator):
    start = generator.generate(captions=CAPTIONS[:3], seed=9)
    plain, cached = (
        generator.extend(
            start,
            captions=CAPTIONS[3:4],
            guidance=2.0,
            context_cache=cache,
            sampler=mf.Halton(num_steps=2),
        )
        for cache in (False, True)
    )
    np.testing.assert_array_equal(plain.tokens, cached.tokens)  # isolated_context makes it exact


def test_samples_in_a_folder_go_on_and_know_their_captions(generator, tmp_path):
    rows = [CAPTIONS[:3], CAPTIONS[1:4], CAPTIONS[2:5]]
    none = np.zeros((3, 0, 4, 4), np.int32)

    def folder(rows, count=3):
        options = {"captions": rows}
        return SampleFolder(
            generator,
            tmp_path,
            none[:count],
            seed=0,
            length=None,
            task="unconditional",
            options=options,
        )

    assert folder(rows).complete(2, gif=False) == 3
    whole = generator.generate(captions=rows, seed=0)
    for number in range(3):
        with np.load(tmp_path / f"sample_{number:05d}.npz") as saved:
            np.testing.assert_array_equal(saved["tokens"], whole.tokens[number])
            assert saved["captions"].tolist() == rows[number]
            np.testing.assert_array_equal(saved["scene_id"], [0, 0, 1, 1, 2, 2])
    (tmp_path / "sample_00001.npz").unlink()
    assert folder(rows).complete(2, gif=False) == 1
    with pytest.raises(FileExistsError, match="context of video 1"):
        folder([rows[0], rows[2], rows[2]])


def test_what_a_dataset_says_becomes_conditions_frame_by_frame():
    from maskflow_jax.sampling.plans import RolloutPlan
    from maskflow_jax.scenes.records import Scene

    records = [
        {"scenes": (Scene(start=1, stop=3, label="a"), Scene(start=4, stop=6, label="b"))},
        {"scenes": (Scene(start=0, stop=6, label="b"),)},
    ]
    texts = dataset_texts(records, 6, "labels")
    np.testing.assert_array_equal(texts.scene_id, [[-1, 0, 0, -1, 1, 1], [0] * 6])
    plan = RolloutPlan(
        video_length=6, chunk_size=4, context_frames=2, stride=2, nfe_per_chunk=1, known_frames=0
    )
    track = SceneTrack(texts, LabelEncoder(["a", "b"]), plan, range(2))
    told = [np.take_along_axis(track(b).labels, track(b).scene_id, axis=1) for b in (0, 2)]
    np.testing.assert_array_equal(told[0], [[-1, 0, 0, -1], [1] * 4])
    np.testing.assert_array_equal(told[1], [[0, -1, 1, 1], [1] * 4])
    encoded = LabelEncoder(["a", "b"]).encode(["b", "a"])
    one = window_conditions(encoded, np.array([1, 1, 0]), 3)
    np.testing.assert_array_equal(one.labels, [0, 1, -1])
    np.testing.assert_array_equal(one.scene_id, [0, 0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": CAPTIONS[:2], "length": 6}, "2 captions for 3 scenes: 6 frames are 3 scenes"),
        ({"captions": CAPTIONS[:4], "length": 6}, "4 captions for 3 scenes"),
        ({"captions": []}, "give a list of texts"),
        ({"captions": "red walls"}, "give a list of texts"),
        ({"captions": [CAPTIONS[:1], CAPTIONS[:2]]}, r"have \[1, 2\] captions"),
        ({"captions": ["red walls", " "]}, "caption ' ' is empty"),
        ({"captions": ["red red walls"]}, "has 3 words, the network takes 2"),
        ({"captions": ["read walls"]}, r"unknown word 'read' \(did you mean 'red'"),
        ({"captions": CAPTIONS[:3], "frames_per_scene": 0}, "frames_per_scene is 0"),
        ({"length": 6, "guidance": 3.0}, "weight 3 needs captions; give some"),
    ],
)
def test_wrong_captions_are_refused(generator, options, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(task="unconditional", **options)


def test_other_mistakes_are_refused(generator, tiny_run):
    with pytest.raises(TypeError, match="frames_per_scene is of scenes; give captions"):
        generator.generate(length=6, frames_per_scene=2)
    with pytest.raises(TypeError, match="length is missing"):
        generator.generate()
    plain = generator.generate(length=6, task="unconditional")
    with pytest.raises(ValueError, match="generate them with captions"):
        generator.extend(plain, captions=CAPTIONS[:1])
    two = generator.generate(captions=[CAPTIONS[:3]] * 2)
    with pytest.raises(ValueError, match="captions of 3 videos for 2"):
        generator.extend(two, captions=[CAPTIONS[:1]] * 3)
    unconditional = mf.VideoGenerator.load(tiny_run)
    for call in (unconditional.generate, lambda **o: list(unconditional.stream(**o))):
        with pytest.raises(ValueError, match="unconditional model; leave them out"):
            call(captions=CAPTIONS[:3])
    assert as_rows([["a"], ["b"]]) == (("a",), ("b",))


def test_the_program_takes_a_file_of_captions(generator, world, tmp_path):
    file = tmp_path / "walks.txt"
    file.write_text("red walls\nblue walls\ngold walls\n\npink walls\ngrey walls\nred walls\n")
    assert read_captions(file) == (tuple(CAPTIONS[:3]), tuple(CAPTIONS[3:6]))
    out = tmp_path / "out"
    arguments = [f"--captions={file}", "--set=guidance.captions=2", "--nogif"]
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["sample", f"--workdir={world}/run", f"--out={out}", *arguments])
    try:
        sample.main(None)
    finally:
        for name in flags.FLAGS.flags_by_module_dict()["launch.sample"]:
            name.unparse()
    with np.load(out / "sample_00001.npz") as saved:
        assert saved["captions"].tolist() == CAPTIONS[3:6]
        assert saved["tokens"].shape == (6, 4, 4)
    assert not (out / "sample_00002.npz").exists()
    file.write_text(" \n")
    with pytest.raises(ValueError, match=r"walks\.txt: captions is"):
        read_captions(file)
    with pytest.raises(FileNotFoundError, match="no captions at"):
        read_captions(tmp_path / "nothing.txt")


def test_a_model_finds_the_encoder_of_its_captions(generator, tmp_path):
    record = ConditionsRecord(kind="embeddings", name="t5", sha256="1", length=4, width=3)
    config = dataclasses.replace(generator.model.config, conditions=record)
    model = dataclasses.replace(generator.model, config=config)
    with pytest.raises(FileNotFoundError, match="pass its folder as the argument `text_encoder`"):
        find_encoder(model)

    class Other:
        def __init__(self, **changes):
            self.record = dataclasses.replace(record, **changes)

    assert find_encoder(model, Other(name="moved")).record.name == "moved"
    for change in ({"width": 4}, {"sha256": "2"}):
        with pytest.raises(ValueError, match="those of the trained model by embeddings 't5'"):
            find_encoder(model, Other(**change))
    labelled = dataclasses.replace(
        config, conditions=ConditionsRecord(kind="labels", names=("left", "right"))
    )
    encoder = find_encoder(dataclasses.replace(model, config=labelled))
    with pytest.raises(ValueError, match="unknown label 'up'; the network knows left, right"):
        encoder.encode(["up"])


def test_jobs_of_different_captions_share_a_batch(generator, tmp_path):
    said = [["red walls", "blue walls"], ["gold walls", "red walls"], ["pink walls", "grey walls"]]
    settings = {"sampler": {"num_steps": STEPS}, "frames_per_scene": 3}
    lines = [json.dumps({"captions": texts, "seed": i, **settings}) for i, texts in enumerate(said)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    jobs = read_jobs(tmp_path / "jobs.jsonl", generator)
    assert [len(batch.results) for batch in make_batches(jobs, tmp_path, 4)] == [3]
    JobFolder(generator, jobs, tmp_path / "out").complete(pixels=False)
    rows = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    for seed, (texts, row) in enumerate(zip(said, rows, strict=True)):
        sampler = dataclasses.replace(generator.model.config.sampling.sampler, num_steps=STEPS)
        same = {"captions": texts, "frames_per_scene": 3, "seed": seed, "sampler": sampler}
        made = generator.generate(num_videos=3, **same)  # as many at a time
        with np.load(tmp_path / "out" / row["file"]) as arrays:
            np.testing.assert_array_equal(arrays["tokens"], made.tokens[0])
        assert row["captions"] == texts
