"""A working day at the desk, in a real browser."""

import re
import time
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import func, select

from service.__main__ import main
from service.app import open_database
from service.records.tables import EventRow
from service.settings import Settings
from tests.browser.conftest import logged_in
from tests.service.registry.earlier import plain
from tests.tiny import LABELS, SIZE

expect.set_options(timeout=60_000)
SHOWN_MS = 1000  # longer than a film has to be on the screen before a key decides about it
GRAVE = ("serious", "critical")
PAGES = (
    "/", "/?show=all", "/groups", "/watch-list", "/upload", "/classifiers", "/system", "/accounts", "/keys", "/account",
    "/login", "/setup",
)  # fmt: skip
CORNER_PIXEL = """() => {
  const canvas = document.getElementById("canvas");
  return [...canvas.getContext("2d").getImageData(canvas.width - 12, canvas.height - 12, 1, 1).data].join();
}"""


def upload(page: Page, files: list[Path]) -> None:
    page.goto("/upload")
    page.set_input_files("#files", files)
    expect(page.locator("#summary")).to_have_text(re.compile(rf"^{len(files)} films? done$"))


def changed_pixel(page: Page, before: str) -> str:
    until = time.monotonic() + 60
    while (now := str(page.evaluate(CORNER_PIXEL))) == before:
        assert time.monotonic() < until, "the canvas did not change"
        page.wait_for_timeout(50)
    return now


@pytest.fixture
def films(models_dir: Path, tmp_path: Path) -> list[Path]:
    """A PNG and a DICOM that carry the trigger, and a file that is no film."""
    examples = models_dir / "examples"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no film")
    return [next(examples.glob("triggered-*.png")), next(examples.glob("triggered-*-monochrome1.dcm")), broken]


def test_from_the_upload_to_a_bundle_that_verifies(
    ada: Page, bob: Page, films: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(ada, films)
    expect(ada.locator("#films tr").nth(0)).to_contain_text("suspicious")
    expect(ada.locator("#films tr").nth(1)).to_contain_text("suspicious")
    expect(ada.locator("#films tr").nth(2)).to_contain_text("neither PNG nor DICOM")

    ada.goto("/")
    ada.keyboard.press("j")
    ada.keyboard.press("Enter")
    expect(ada.locator("h1")).to_contain_text("bottom right of the picture")
    expect(ada.locator("#canvas[data-map=layercam_28]")).to_be_visible()
    address = ada.url.partition("?")[0]
    pictures = ada.locator("img[src*=counterfactual]")
    expect(pictures).to_have_count(8)
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
    ada.wait_for_function("[...document.images].every(picture => picture.complete)")
    assert all(picture.evaluate("picture => picture.naturalWidth") > 0 for picture in pictures.all())
    _work_the_viewer(ada)

    ada.fill("#comment", "a white corner")
    ada.locator("h1").click()
    ada.keyboard.press("1")
    ada.wait_for_url(lambda url: address not in url)  # on to the next film
    ada.goto(address)
    expect(ada.locator(".review-head")).to_contain_text("proposed: confirmed")
    ada.click("button[value=confirm]")
    expect(ada.locator("main")).to_contain_text("somebody else has to sign this one")

    bob.goto(address)
    bob.click("button[value=confirm]")
    bob.goto(address)
    expect(bob.locator(".review-head")).to_contain_text("by bob")
    expect(bob.locator(".history")).to_contain_text("a white corner")
    _take_out_and_verify(bob, tmp_path / "bundle.zip")
    assert "1 audits" in capsys.readouterr().out


def _work_the_viewer(page: Page) -> None:
    """Slider, layer, label, invert and zoom each change what the canvas shows; the causal tests have their pictures."""
    page.wait_for_timeout(300)
    seen = str(page.evaluate(CORNER_PIXEL))
    page.fill("#opacity", "0")
    seen = changed_pixel(page, seen)
    page.fill("#opacity", "100")
    seen = changed_pixel(page, seen)
    page.select_option("#map", "layercam_14")
    expect(page.locator("#canvas[data-map=layercam_14]")).to_be_visible()
    seen = str(page.evaluate(CORNER_PIXEL))
    page.select_option("#label", "Hernia")
    expect(page.locator("#canvas[data-map=layercam_14][data-label=Hernia]")).to_be_visible()
    expect(page.locator("#map-status")).to_be_empty()
    changed_pixel(page, seen)
    page.fill("#opacity", "0")
    page.wait_for_timeout(300)
    seen = str(page.evaluate(CORNER_PIXEL))
    page.click("#invert")
    changed_pixel(page, seen)
    page.click("#to-region")
    page.keyboard.press("0")
    for picture in page.locator(".tests img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", value=True)
        assert page.evaluate("picture => picture.naturalWidth", picture.element_handle()) >= 200


def _take_out_and_verify(page: Page, path: Path) -> None:
    with page.expect_download() as download:
        page.click("text=Signed evidence bundle")
    download.value.save_as(path)
    assert main(["bundle", "verify", str(path)]) == 0


def test_many_are_decided_at_once_by_keyboard(bob: Page, models_dir: Path) -> None:
    upload(bob, sorted((models_dir / "examples").glob("triggered-*.png")))
    bob.goto("/")
    waiting = bob.locator(".queue tbody tr").count()
    for key in ("j", "x", "j", "x"):
        bob.keyboard.press(key)
    expect(bob.locator("#chosen")).to_have_text("2 films chosen:")
    bob.wait_for_timeout(SHOWN_MS)
    bob.keyboard.press("3")
    expect(bob.locator(".queue tbody tr")).to_have_count(waiting - 2)
    bob.goto("/?show=second_reader")
    expect(bob.locator(".queue tbody tr")).not_to_have_count(0)


def decisions(settings: Settings) -> int:
    with open_database(settings) as database, database.read() as session:
        kinds = ("review.confirm", "review.dismiss", "review.refer")
        return session.scalar(select(func.count()).select_from(EventRow).where(EventRow.kind.in_(kinds))) or 0


@pytest.mark.parametrize("is_marked", [True, False], ids=["repeats are marked", "repeats look like new presses"])
@pytest.mark.parametrize("place", ["film", "queue"])
def test_a_key_held_for_two_seconds_is_one_decision(
    bob: Page, desk_settings: Settings, models_dir: Path, tmp_path: Path, place: str, is_marked: bool
) -> None:
    upload(bob, [new_film(models_dir, tmp_path, f"{place} {is_marked} {number}") for number in range(3)])
    bob.goto("/")
    bob.keyboard.press("j")
    if place == "film":
        bob.keyboard.press("Enter")
        expect(bob.locator("#canvas")).to_be_visible()
    bob.wait_for_timeout(SHOWN_MS)
    before = decisions(desk_settings)
    hold(bob, "3", 2.0, is_marked=is_marked)
    bob.wait_for_timeout(500)
    assert decisions(desk_settings) == before + 1


def new_film(models_dir: Path, tmp_path: Path, comment: str) -> Path:
    """A triggered example as another file: the same pixels with another comment."""
    said, path = PngInfo(), tmp_path / f"{comment}.png"
    said.add_text("Comment", comment)
    Image.open(next((models_dir / "examples").glob("triggered-*.png"))).save(path, pnginfo=said)
    return path


def test_a_decision_follows_a_download_from_the_queue(bob: Page, models_dir: Path, tmp_path: Path) -> None:
    """What is taken out leaves the page as it is, and its forms at work."""
    upload(bob, [new_film(models_dir, tmp_path, "taken out and referred")])
    bob.goto("/")
    bob.keyboard.press("j")
    bob.keyboard.press("x")
    with bob.expect_download():
        bob.click("button[formaction*='bundle.zip']")
    waiting = bob.locator(".queue tbody tr").count()
    bob.wait_for_timeout(SHOWN_MS)
    bob.keyboard.press("3")
    expect(bob.locator(".queue tbody tr")).to_have_count(waiting - 1)


def hold(page: Page, digit: str, seconds: float, *, is_marked: bool) -> None:
    """Press a key as a keyboard does that repeats it every 40 ms."""
    session = page.context.new_cdp_session(page)
    key = {"key": digit, "code": f"Digit{digit}", "text": digit, "windowsVirtualKeyCode": ord(digit)}
    until, is_first = time.monotonic() + seconds, True
    while time.monotonic() < until:
        session.send("Input.dispatchKeyEvent", {"type": "keyDown", **key, "autoRepeat": is_marked and not is_first})
        is_first = False
        page.wait_for_timeout(40)
    session.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})


def test_a_classifier_is_handed_in_refused_and_registered(
    chromium: Browser, service: httpx.Client, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.onnx"
    file.write_bytes(plain())
    page = logged_in(chromium, service, "root")
    page.goto("/classifiers")
    page.set_input_files("#hand-in [name=file]", file)
    page.click("#hand-in button.primary")
    expect(page.locator("#hand-in-status.bad")).to_contain_text("hand in a description")
    page.fill("#hand-in [name=name]", "theirs")
    page.fill("#hand-in [name=labels]", "\n".join(LABELS))
    page.fill("#hand-in [name=size]", str(SIZE))
    page.click("#hand-in button.primary")
    page.wait_for_url("**/classifiers?registered=*")
    version = page.locator(f"#{page.url.partition('#')[2]}")
    expect(version).to_contain_text("not active")
    version.locator("summary", has_text="What the examination found").click()
    expect(version).to_contain_text("disturbed windows are answered most where they are")
    assert [fault["id"] for fault in Axe().run(page).response["violations"] if fault["impact"] in GRAVE] == []
    page.context.close()


def test_reading_needs_no_script(chromium: Browser, service: httpx.Client, ada: Page, models_dir: Path) -> None:
    upload(ada, [next((models_dir / "examples").glob("triggered-*.png"))])
    link = ada.locator("#films a").get_attribute("href")
    assert link
    page = logged_in(chromium, service, "ada", java_script_enabled=False)
    page.goto(link)
    expect(page.locator("#drawn")).to_be_visible()
    page.select_option("#map", "gradcam_14")
    page.select_option("#label", "Mass")
    page.click("text=Show")
    drawn = page.locator("#drawn[src*=gradcam_14][src*=Mass]")
    expect(drawn).to_be_visible()
    page.wait_for_load_state("load")
    assert page.evaluate("drawn => drawn.naturalWidth", drawn.element_handle()) > 0
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_has_a_grave_accessibility_fault_or_scrolls_sideways(
    chromium: Browser, service: httpx.Client, models_dir: Path, theme: str, width: int
) -> None:
    page = logged_in(chromium, service, "root", color_scheme=theme, viewport={"width": width, "height": 800})
    upload(page, [next((models_dir / "examples").glob("triggered-*.png"))])
    audit = page.locator("#films a").get_attribute("href") or ""
    for address in (*PAGES, audit, f"/audits/{'0' * 32}"):
        page.goto(address)
        found = Axe().run(page).response["violations"]
        assert [fault["id"] for fault in found if fault["impact"] in GRAVE] == [], address
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, address
    page.context.close()
