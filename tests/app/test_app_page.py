"""The page in a real browser: generate, stop, reproduce, paint, upload, visitors at once."""

import contextlib
import time
from pathlib import Path

import browsers
import numpy as np
import pytest
import tiny
from copied_code import rerun
from PIL import Image

import maskflow_jax as mf
from maskflow_jax.app.models import Models

pytestmark = pytest.mark.usefixtures("compilation_cache")
WAIT = 20_000  # milliseconds; on a busy machine
READY = "#get-npz:not([disabled])"


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium(needs=["gradio"]) as found:
        yield found


@pytest.fixture(scope="module")
def page(browser, tiny_run):
    """The page, served from this process."""
    from maskflow_jax.app.server import serve

    with tiny.quick_compilation():
        served = serve(Models([str(tiny_run), "maze_scenes"]))
        yield served
        served.close()
    assert not Path(served.files.name).exists()


@pytest.fixture
def visit(browser, page):
    """Opens the page as a visitor of its own; in the end, nothing went wrong and nothing was
    fetched from elsewhere."""
    problems, requests = [], []

    def said(message):
        if message.type == "error":
            problems.append(message.text)

    with contextlib.ExitStack() as stack:

        def open_page(**entries):
            context = browser.new_context(viewport={"width": 1200, "height": 900})
            stack.callback(context.close)
            tab = context.new_page()
            tab.set_default_timeout(WAIT)
            tab.on("console", said)
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.on("request", lambda request: requests.append(request.url))
            tab.goto(page.address)
            tab.wait_for_selector("#plan .note")
            for name, value in entries.items():
                tab.fill(f"#{name} input", str(value))
                tab.press(f"#{name} input", "Tab")
            return tab

        yield open_page
        assert not problems
        own = (page.address, "data:", "blob:")
        assert requests and all(url.startswith(own) for url in requests), requests


def choose(tab, name, value):
    tab.click(f"#{name} label:has-text('{value}')")
    tab.wait_for_selector(f"#{name} label.selected:has-text('{value}')")


def plan_says(tab, text):
    tab.wait_for_function(
        "text => document.querySelector('#plan').innerText.includes(text)", arg=text
    )


def download(tab, folder, kind="npz"):
    with tab.expect_download() as started:
        tab.click(f"#get-{kind}")
    path = folder / f"sample_00000.{kind}"
    started.value.save_as(path)
    return path


def copied(tab):
    """What the button of the code puts on the clipboard."""
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.click("#code button[aria-label*=opy], #code button[title*=opy]")
    return tab.evaluate("navigator.clipboard.readText()")


def paint(tab, reach):
    """Paints a stroke over the middle of the drawing, once it lies still."""
    drawing, place = tab.locator("#drawing canvas").first, None
    while place != (place := drawing.bounding_box()):
        drawing.evaluate("e => e.scrollIntoView({block: 'center', behavior: 'instant'})")
        time.sleep(0.3)
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    tab.mouse.move(x - reach, y)
    tab.mouse.down()
    tab.mouse.move(x + reach, y, steps=5)
    tab.mouse.up()


def test_a_video_is_generated_and_the_copied_code_makes_it_again(visit, tmp_path, monkeypatch):
    tab = visit(length=8, seed=5, index=1)
    plan_says(tab, "NFE 3 x 2 = 6; less than a second")
    tab.fill("#mgm-num_steps input", "3")
    tab.press("#mgm-num_steps input", "Tab")
    plan_says(tab, "NFE 3 x 3 = 9")
    tab.click("#generate")
    tab.wait_for_selector(READY)
    assert "8 frames, NFE 9, seed 5" in tab.inner_text("#status")
    assert tab.get_attribute("#status progress", "value") == "9"
    saved = np.load(download(tab, tmp_path))
    assert saved["tokens"].shape == (8, 4, 4)
    for kind, start in (("mp4", b"ftyp"), ("gif", b"GIF89a")):
        assert start in download(tab, tmp_path, kind).read_bytes()[:12]
    videos = rerun(copied(tab), tmp_path, monkeypatch)
    np.testing.assert_array_equal(videos.tokens[0], saved["tokens"])
    np.testing.assert_array_equal(videos.known, saved["known"])
    tab.wait_for_function("document.querySelector('#video video').currentTime > 0.2")
    tab.click("#reveal")
    tab.wait_for_selector("#unmasked img")
    before = tab.get_attribute("#unmasked img", "src")
    tab.fill("#steps input[type=number]", "3")
    tab.press("#steps input[type=number]", "Tab")
    tab.wait_for_function("b => document.querySelector('#unmasked img').src != b", arg=before)


def test_a_video_is_stopped(visit, tmp_path):
    tab = visit(length=1000)
    choose(tab, "source", "none")
    tab.wait_for_selector("#task label.selected:has-text('unconditional')")
    plan_says(tab, "1000 frames from 0")
    tab.click("#generate")
    tab.wait_for_function(
        "document.querySelector('#status').innerText.startsWith('Window ')"
        " && document.querySelector('#status progress').value > 0"
    )
    tab.click("#stop")
    tab.wait_for_selector(READY)
    status = tab.inner_text("#status")
    assert status.startswith("Stopped after") and "all 1000 frames" in status
    made = int(status.split()[2])
    assert 0 < made < 1000
    assert len(np.load(download(tab, tmp_path))["tokens"]) == made
    tab.wait_for_selector("#generate:not([disabled])")
    tab.fill("#length input", "1001")
    tab.press("#length input", "Tab")
    tab.wait_for_selector("#plan .problem:has-text('length is 1001')")


def test_a_bad_upload_is_a_message_and_a_good_one_is_used_and_deleted(
    visit, page, tmp_path, monkeypatch
):
    tab = visit(length=6)
    choose(tab, "source", "upload")
    text = tmp_path / "note.txt"
    text.write_text("no video")
    tab.set_input_files("#upload input[type=file]", text)
    tab.wait_for_selector(".toast-body:has-text('Invalid file type: note.txt')")
    bad = tmp_path / "broken.mp4"
    bad.write_bytes(b"no video" * 100)
    tab.set_input_files("#upload input[type=file]", bad)
    tab.wait_for_selector("#clip_note .problem:has-text('broken.mp4 cannot be decoded as video')")
    tab.click("#generate")
    tab.wait_for_selector("#status .problem:has-text('no file is uploaded yet')")
    good = tmp_path / "good.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(good)
    tab.set_input_files("#upload input[type=file]", good)
    tab.wait_for_selector("#clip_note .note:has-text('good.png: an image')")
    names = {path.name for path in Path(page.files.name).rglob("*")}
    assert not names & {"good.png", "broken.mp4"}
    choose(tab, "task", "inpaint")
    tab.wait_for_selector("#drawing canvas")
    time.sleep(1)  # the drawing takes its picture in
    tab.click("#generate")
    tab.wait_for_selector("#status .problem:has-text('nothing is painted yet')")
    paint(tab, 10)
    time.sleep(0.5)
    tab.click("#generate")
    tab.wait_for_selector(READY)
    saved = np.load(download(tab, tmp_path))
    known = saved["known"]
    assert not known[:, 1:3, 1:3].any() and known[:, [0, 3]].all()
    videos = rerun(copied(tab), tmp_path, monkeypatch)
    np.testing.assert_array_equal(videos.tokens[0], saved["tokens"])
    np.testing.assert_array_equal(videos.known, known)


def test_captions_make_scenes(visit, tmp_path, monkeypatch):
    tab = visit()
    assert tab.is_visible("#length") and not tab.is_visible("#captions")
    tab.click("#model input")
    tab.click("[role=listbox] [role=option]:has-text('maze_scenes')")
    plan_says(tab, "18 frames from 0")
    assert tab.is_visible("#captions") and not tab.is_visible("#length")
    tab.fill("#mgm-num_steps input", "2")
    tab.fill("#captions textarea", "red wals")
    plan_says(tab, "did you mean 'walls'?")
    tab.click("#generate")
    tab.wait_for_selector("#status .problem:has-text('unknown word')")
    tab.fill("#captions textarea", "red walls\n\ngreen walls, turning left")
    tab.fill("#frames_per_scene input", "9")
    plan_says(tab, "NFE 1 x 2 = 2")
    tab.click("#generate")
    tab.wait_for_selector(READY)
    saved = np.load(download(tab, tmp_path))
    assert saved["captions"].tolist() == ["red walls", "green walls, turning left"]
    videos = rerun(copied(tab), tmp_path, monkeypatch)
    np.testing.assert_array_equal(videos.tokens[0], saved["tokens"])


def test_visitors_queue_and_their_videos_are_their_own(visit, tiny_run, tmp_path):
    tabs = {seed: visit(length=90, seed=seed) for seed in (11, 12)}
    for tab in tabs.values():
        plan_says(tab, "90 frames")
        tab.click("#generate")
    generator = mf.VideoGenerator.load(tiny_run)
    for seed, tab in tabs.items():
        tab.wait_for_selector(READY)
        assert f"seed {seed}" in tab.inner_text("#status")
        expected = generator.generate(length=90, seed=seed)
        np.testing.assert_array_equal(
            np.load(download(tab, tmp_path))["tokens"], expected.tokens[0]
        )
