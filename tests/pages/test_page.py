"""Pages of runs and samples: what is on them, what is escaped, and how a browser shows them."""

import base64
import json
import re
import shutil
import time
from html.parser import HTMLParser

import browsers
import numpy as np
import pytest

import maskflow_jax as mf
from maskflow_jax.data.dataset import read_token_dataset
from maskflow_jax.evaluation.receipts import Metric, make_receipt, write_receipt
from maskflow_jax.generation.videos import save_tokens
from maskflow_jax.io import video_files
from maskflow_jax.pages.players import place_of, spans_of
from maskflow_jax.tokenizers.tokenizer import Tokenizer

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
NAME = "<b>run & 'co'"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, and the text; unbalanced tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def write_samples(folder, tokenizer, tokens, known, **settings):
    """Stored samples, as sampling leaves them without pixels."""
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    for number, video in enumerate(tokens):
        save_tokens(folder / f"sample_{number:05d}.npz", video, known, 5.0, tokenizer)


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    """A run with metrics, a preview, samples of two kinds, drift and a receipt."""
    folder = tmp_path_factory.mktemp("pages") / NAME
    shutil.copytree(tiny_run, folder)
    rng = np.random.default_rng(0)
    row = {"train/loss": 2.0, "train/accuracy": 0.1, "train/grad_norm": 1.0}
    bins = {f"validation/cross_entropy_t0.{i}-0.{i + 1}": 1.0 + i for i in range(9)}
    bins |= {"validation/cross_entropy": 1.5}
    lines = [{"step": s} | row | (bins if s % 2 else {}) for s in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    noise = rng.integers(0, 255, (8, 16, 32, 3), dtype=np.uint8)
    for step in range(12):
        video_files.write_mp4(folder / "previews" / f"{step:08d}.mp4", noise, 5)
    tokenizer = Tokenizer.load(tiny_run.parent / "tokenizer")
    real = read_token_dataset(tiny_run.parent / "data", "test")
    tokens = rng.integers(0, 8, (2, 12, 4, 4))
    known = np.broadcast_to((np.arange(12) < 2)[:, None, None], (12, 4, 4))
    tokens[0, :2], tokens[1, :2] = real[0]["tokens"][:2], real[1]["tokens"][3:5]
    kind = {"sampling": {"sampler": {"name": "<i>mgm"}}, "seed": 3, "task": "prediction"}
    write_samples(folder / "samples" / "a", tokenizer, tokens, known, **kind)
    kind = {"sampling": {"sampler": {"name": "fm"}}, "seed": 10, "task": "unconditional"}
    kind["contexts"] = ["0" * 64] * 50
    write_samples(folder / "samples" / "b", tokenizer, tokens[:1, :6], known[6:], **kind)
    (folder / "samples" / "a" / "drift.csv").write_text("window,entropy,seam\n0,2.5,\n1,2.0,1.5\n")
    names = ("unigram", "unigram.window_00", "unigram.window_01")
    metrics = [Metric(name=name, draws=(0.1, 0.2), n=4, floor=0.05) for name in names]
    (folder / "evaluation").mkdir()
    receipt = make_receipt({"hashes": {"weights": "f" * 64}, "settings": {}}, metrics)
    write_receipt(folder / "evaluation" / "receipt.json", receipt)
    return folder


@pytest.fixture(scope="module")
def path(folder):
    return mf.write_report(folder, folder.parent / "page.html")


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text())


def test_the_page_has_all_that_there_is(page):
    assert [a["id"] for a in page.all("section")] == [
        *("training", "previews", "samples", "drift", "receipts", "settings")
    ]
    alts = [a["alt"] for a in page.all("img")]
    assert alts[:3] == [
        "training loss (weighted)",
        "validation, nats per masked token",
        "validation by time (1: nothing masked)",
    ]
    assert alts[-3:] == ["unigram", "entropy", "seam"]
    videos = page.all("video")
    assert len(videos) == 8 + 3
    for text in ("8 of 12", "step 11", "sample_00001", "flow.schedule", "0.15 ± 0.071", "f" * 64):
        assert text in page.text, text
    assert "50 values: ['000" in page.text
    options = [a["value"] for a in page.all("option")]
    tasks, samplers = ["=prediction", "=unconditional"], ["=<i>mgm", "=fm"]
    assert options[:9] == ["*", *tasks, "*", *samplers, "*", "=3", "=10"]


def test_nothing_is_loaded_from_elsewhere_and_everything_is_escaped(page, path):
    text = path.read_text()
    assert not re.search(r"https?://", text)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "#").startswith(("data:", "#")), attributes
    assert "<b>run" not in text and NAME in page.text
    assert "<i>mgm" not in text and "<i>mgm" in page.text
    assert page.all("meta")[2]["content"].startswith("default-src 'none'")
    for image in page.all("img"):
        kind, _, data = image["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert base64.b64decode(data).startswith(b"<?xml")


def test_samples_play_beside_the_real_videos_with_the_given_frames_marked(page, tmp_path):
    figures = {a["data-name"]: a for a in page.all("figure") if "data-name" in a}
    names = [f"samples/{name}" for name in ("a/sample_00000", "a/sample_00001", "b/sample_00000")]
    assert list(figures) == names
    assert figures[names[2]] == {
        "data-name": names[2],
        "data-task": "unconditional",
        "data-sampler": "fm",
        "data-seed": "10",
        "data-frames": "6",
        "data-fps": "5.0",
    }
    spans = [a for a in page.all("span") if "data-share" in a][:2]
    spans = [(a["data-start"], a["data-stop"], a["data-share"]) for a in spans]
    assert spans == [("0", "2", "1.000"), ("2", "12", "0.000")]
    assert "generated left, real right (test video 0)" in page.text
    assert "generated left, real right (test video 1)" in page.text  # it stands still
    source = page.all("video")[8]["src"].removeprefix("data:video/mp4;base64,")
    (tmp_path / "a.mp4").write_bytes(base64.b64decode(source))
    frames, fps = video_files.read_video(tmp_path / "a.mp4")
    assert frames.shape == (12, 128, 288, 3) and fps == pytest.approx(5)
    # The real video has 10 frames: then there is white.
    assert frames[9, :, 160:].mean() < 250 < frames[10, :, 160:].mean()


def test_real_videos_are_found_by_what_is_known():
    video = np.random.default_rng(0).integers(0, 512, (40, 4, 4))
    tokens, known = video[7:17].copy(), np.zeros((10, 4, 4), bool)
    known[:2] = True
    tokens[~known] = 0
    assert place_of(tokens, known, video) == 7
    assert place_of(tokens, known, video[:9]) == 7  # what there is of it
    assert place_of(tokens, known, video[8:]) is None
    box = np.ones((10, 4, 4), bool)
    box[:, 1:3, 1:3] = False
    tokens = np.where(box, video[5:15], 0)
    assert place_of(tokens, box, video) == 5
    backward = np.flip(known, 0)
    assert place_of(np.where(backward, video[3:13], 0), backward, video) == 3
    assert place_of(np.where(backward, video[3:13], 0), backward, video[5:]) is None
    assert [(s.start, s.stop, s.share) for s in spans_of(box)] == [(0, 10, 0.75)]


def test_what_cannot_be_shown_is_an_error_or_is_said(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no folder at"):
        mf.write_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is nothing to show"):
        mf.write_report(tmp_path)
    shutil.copytree(folder / "samples" / "a", tmp_path / "a")
    assert "have not been decoded" in mf.write_report(tmp_path / "a", max_samples=1).read_text()
    assert mf.write_report(tmp_path / "a", model=folder).read_text().count("real right") == 2
    (tmp_path / "a" / "sample_00000.npz").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="is no sample or damaged"):
        mf.write_report(tmp_path / "a")


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as found:
        yield found


def until(tab, condition):
    """Waits for a condition; Playwright's own waiting evaluates text, which the page forbids."""
    deadline = time.monotonic() + 20
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


@pytest.mark.parametrize("width", [400, 1600])
def test_a_browser_plays_filters_and_sorts(browser, path, width):
    tab, said, asked = browser.new_page(viewport={"width": width, "height": 900}), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    tab.goto(path.as_uri())
    videos = "[...document.querySelectorAll('#players video')]"
    until(tab, "[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    tab.click("#play")
    until(tab, f"{videos}.every(v => v.currentTime > 0.45 && !v.paused)")
    # The two first frames of 5 per second are given; then the border goes.
    until(tab, f"{videos}.every(v => !v.classList.contains('given'))")
    tab.click("#pause")
    assert tab.evaluate(f"{videos}.every(v => v.paused)")
    tab.evaluate(f"{videos}[0].currentTime = 0.1")
    until(tab, f"{videos}[0].classList.contains('given')")
    shown = "[...document.querySelectorAll('#players figure')].filter(f => !f.hidden)"
    shown += ".map(f => f.dataset.seed)"
    assert tab.evaluate(shown) == ["3", "3", "10"]
    tab.select_option("[data-filter=sampler]", "=<i>mgm")
    assert tab.evaluate(shown) == ["3", "3"]
    assert tab.inner_text("#shown") == "2 shown"
    tab.select_option("[data-filter=sampler]", "*")
    tab.select_option("#order", "frames")
    assert tab.evaluate(shown) == ["10", "3", "3"]
    tab.select_option("#order", "seed")
    assert tab.evaluate(shown) == ["3", "3", "10"]
    # Nothing is wider than the window, and text keeps a readable size.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    sizes = "[...document.querySelectorAll('figcaption, p, td, code')]"
    sizes = tab.evaluate(f"{sizes}.map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= 12
    assert (
        tab.evaluate("Math.min(...[...document.images].map(i => i.naturalWidth && i.width))") > 280
    )
    assert not said
    assert set(asked) <= {"file", "data"} and asked.count("file") == 1
    tab.close()
