"""The page: what it shows of a video, in a real browser, and that it asks nothing of anybody else."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from timesformer_jax.cli import main
from timesformer_jax.data.motion import OPPOSITE, MotionTask, motion_clip, write_keyframes
from timesformer_jax.demo import app
from timesformer_jax.demo.app import listen, write_examples
from timesformer_jax.demo.explainer import Explainer
from timesformer_jax.errors import TimesformerError, VideoError
from timesformer_jax.interpret.choices import Choices

SECONDS = 120
"""To wait for anything on the page, at most: on a busy machine compiling takes its time."""


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.load("motion-tiny")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    frames, name = motion_clip(MotionTask(), seed=99, split="test", number=3)
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    write_keyframes(path, frames)
    return path, name


def test_a_video_is_explained(explainer: Explainer, video: tuple[Path, str], tmp_path: Path) -> None:
    path, name = video
    shown = explainer.explain(str(path), "temporal", Choices(layer=2, patch=(0, 3)), tmp_path)
    expected = explainer.classify(path, top_k=5)
    assert [(p.label, p.logit) for p in shown.predictions] == [(p.label, pytest.approx(p.logit)) for p in expected]
    assert shown.predictions[0].label == name
    with Image.open(shown.picture) as picture:
        assert picture.width > 1000
    assert shown.animation is None
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        explainer.explain(str(tmp_path / "bad.mp4"), "attention", Choices(), tmp_path)


def test_what_the_page_offers(explainer: Explainer) -> None:
    assert explainer.methods == ("attention", "rollout", "relevance", "temporal")
    assert explainer.grid == (4, 4)
    config = dataclasses.replace(explainer.encoder.model.config, attention_type="space_only")
    encoder = dataclasses.replace(explainer.encoder, model=explainer.encoder.model.clone(config=config))
    assert "temporal" not in Explainer(encoder, explainer.classify).methods
    whole = dataclasses.replace(explainer.encoder.processor, do_center_crop=False)
    assert Explainer(dataclasses.replace(encoder, processor=whole), explainer.classify).grid is None


@pytest.mark.parametrize("port", ["99999", "-1", "taken"])
def test_a_port_that_can_not_be_had_is_said_before_anything_is_loaded(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(Explainer, "load", lambda model, **_: loaded.append(model))
    monkeypatch.setattr(app, "import_gradio", lambda: loaded.append("gradio"))
    with listen("127.0.0.1", 0) as taken:
        wanted = str(taken.getsockname()[1]) if port == "taken" else port
        assert main(["app", "--port", wanted]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert wanted in said[0]
    assert loaded == []


def test_videos_to_try_are_for_models_of_the_motion_task(tmp_path: Path) -> None:
    videos = write_examples(("up", "down"), tmp_path)
    assert len({path.stem for path in videos} & set(OPPOSITE)) == len(videos) == 4
    assert write_examples(("up", "flipping pancake"), tmp_path) == []


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--port", "0"]) == 2
    assert "pip install 'gradio" in capsys.readouterr().err.splitlines()[-1]


def test_a_port_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TimesformerError, match=rf"port {port} \(Address already in use.*another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(TimesformerError, match="not 70000"):
        listen("127.0.0.1", 70000)
    with pytest.raises(TimesformerError, match=r"192\.0\.2\.1"):  # reserved for documentation: nobody's
        listen("192.0.2.1", 0)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Of the page that `timesformer app` serves; at the end it is interrupted, as a person would."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -e '.[app]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("app") / "log"
    command = [str(Path(sys.executable).parent / "timesformer"), "app", "--port", str(port)]
    # A shell's background jobs ignore interrupts, and so would the page that these tests start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line == f"http://127.0.0.1:{port}", log.read_text()
        yield line
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(SECONDS)
        finally:
            process.kill()
            process.communicate()
    assert code == 0
    expected = ["loading Gradio ...", "loading motion-tiny ...", "the page is served until you press Ctrl-C:", "closed"]
    assert log.read_text().splitlines() == expected


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """A headless Chromium that keeps a record of its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed: pip install -e '.[test]'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={profile} --window-size=1280,1600"
    ).split():
        options.add_argument(argument)
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.slow
class TestInABrowser:
    def wait_for(self, browser: Any, script: str) -> Any:
        """What a script gives, once it gives something."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(browser, SECONDS).until(lambda _: browser.execute_script(script))

    def upload(self, browser: Any, address: str, video: Path) -> None:
        """Opens the page anew and drops a video."""
        browser.get(address)
        field = self.wait_for(browser, "return document.querySelector('input[type=file]')")
        field.send_keys(str(video))

    def picture(self, browser: Any, other_than: str = "") -> str:
        """The address of the picture, once it is there whole."""
        script = f"""
            const found = [...document.querySelectorAll('img')].find(image => image.src.endsWith('.png'));
            return found && found.complete && found.naturalWidth > 1000 && found.src !== '{other_than}' && found.src"""
        return self.wait_for(browser, script)

    def test_a_video_shows_its_class_and_what_the_model_attends_to(
        self, address: str, browser: Any, video: tuple[Path, str]
    ) -> None:
        path, name = video
        self.upload(browser, address, path)
        first = self.picture(browser)
        text = browser.find_element("tag name", "body").text
        best = browser.find_element("css selector", "[data-testid=label-output-value]").text
        assert best == name
        assert all(label in text for label in OPPOSITE if "-" in label), "the classes are named"
        width = browser.execute_script("return document.querySelector('video').videoWidth")
        assert width == 64, "the video can be played"
        motion = (
            "return [...document.querySelectorAll('img')].some(i => i.src.endsWith('.gif') && i.naturalWidth > 500)"
        )
        assert self.wait_for(browser, motion)

        browser.find_element("css selector", "input[type=radio][value=relevance]").click()
        second = self.picture(browser, other_than=first)
        assert second.endswith("relevance.png")
        browser.find_element("css selector", "input[type=radio][value=temporal]").click()
        third = self.picture(browser, other_than=second)
        assert third.endswith("temporal.png")
        assert "row of the patch" in browser.find_element("tag name", "body").text

    def test_a_bad_file_gets_a_sentence(self, address: str, browser: Any, tmp_path: Path) -> None:
        bad = tmp_path / "holiday.mp4"
        bad.write_text("no video")
        self.upload(browser, address, bad)
        # The browser's player has a word of its own to say beside the page's.
        script = (
            "return [...document.querySelectorAll('.toast-body')].map(t => t.innerText).find(t => t.includes('mp4'))"
        )
        message = self.wait_for(browser, script)
        assert "holiday.mp4 can't be opened as a video" in message
        assert "Traceback" not in message
        assert "/" not in message.replace("\n", " "), "where it is kept is not told"

    def test_nothing_is_asked_of_others(self, address: str, browser: Any) -> None:
        """Of all that the pages above have asked for."""
        browser.get(address)
        self.wait_for(browser, "return document.querySelector('input[type=file]')")
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        hosts = {urlsplit(url).netloc for url in sent if urlsplit(url).scheme not in ("data", "blob", "chrome")}
        assert hosts == {urlsplit(address).netloc}
