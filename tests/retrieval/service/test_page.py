"""The page, used in a headless Chromium as a visitor does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.agreement import CHROMIUM
from benchmarks.service_process import Running
from retrieval.index import Index
from tests.forks import poll

FOUND = next(filter(None, map(shutil.which, CHROMIUM)), None)
expect.set_options(timeout=30_000)
pytestmark = pytest.mark.skipif(FOUND is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, service: Running) -> Iterator[Page]:
    """The page, open; whatever it complains of fails the test, and so does whatever it asks of others."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on(
        "request",
        lambda request: request.url.startswith((service.url, "data:", "blob:")) or complaints.append(request.url),
    )
    page.goto(service.url)
    expect(page.locator("#hits li")).to_have_count(24)
    yield page
    assert [complaint for complaint in complaints if "status of 4" not in complaint] == []
    context.close()


@pytest.fixture(scope="module")
def photo(catalogue: Path) -> Path:
    return sorted(catalogue.rglob("*.jpg"))[3]


def shown(page: Page) -> list[int]:
    """The ids of the items that are shown."""
    sources = page.locator("#hits img").evaluate_all("images => images.map(image => image.getAttribute('src'))")
    return [int(source.removeprefix("photos/")) for source in sources]


def upload(page: Page, photo: Path) -> None:
    page.set_input_files("#file", photo)
    expect(page.locator("#title")).to_have_text("Most alike")
    expect(page.locator("#hits li")).to_have_count(5)


def test_a_photo_brings_the_five_most_alike(page: Page, photo: Path, index_directory: Path) -> None:
    upload(page, photo)
    assert shown(page) == [hit.id for hit in Index(index_directory).search(photo, 5)]
    expect(page.locator("#hits .far").first).to_have_text("0.000")
    expect(page.locator("#seen")).to_be_visible()
    page.click("#more")
    expect(page.locator("#hits li")).to_have_count(25)


def test_filters_and_their_counts(page: Page, photo: Path, index_directory: Path) -> None:
    upload(page, photo)
    kind = page.get_by_label(re.compile("^Boots"))
    kind.check()
    expect(page.locator("#hits li span").first).to_contain_text("price")
    boots = [hit.id for hit in Index(index_directory).search(photo, 5, "kind=Boots")]
    expect(page.locator(f"#hits img[src='photos/{boots[-1]}']")).to_be_visible()
    assert shown(page) == boots
    page.get_by_label("price, most").fill("30")
    page.keyboard.press("Tab")
    cheap = [hit.id for hit in Index(index_directory).search(photo, 5, "kind='Boots' AND price <= 30")]
    assert len(cheap) == 5 and cheap != boots
    poll(lambda: shown(page) == cheap)
    expect(page.locator("label", has_text="Boots").locator("b")).to_have_text("11")  # 20 to 30, one each
    page.click("#clear")
    expect(page.locator("#hits .far").first).to_have_text("0.000")


def test_more_like_this_and_back(page: Page, photo: Path) -> None:
    upload(page, photo)
    item = shown(page)[1]
    page.click("#hits .more >> nth=1")
    expect(page.locator("#query-title")).to_have_text("More like this one")
    expect(page.locator(f"#hits img[src='photos/{item}']")).to_have_count(0)
    expect(page.locator(f"#asked-photo[src='photos/{item}']")).to_be_visible()
    page.go_back()
    expect(page.locator("#query-title")).to_have_text("Which shoes look like yours?")


def test_the_frame_decides_what_is_compared(page: Page, photo: Path) -> None:
    upload(page, photo)
    before = page.locator("#seen").get_attribute("src")
    page.focus("#crop")
    for _ in range(6):
        page.keyboard.press("-")
    expect(page.locator("#hits .far").first).not_to_have_text("0.000")
    assert page.locator("#seen").get_attribute("src") != before
    page.click("#whole")
    expect(page.locator("#hits .far").first).to_have_text("0.000")


def test_a_tall_photo_keeps_its_shape_and_its_frame(page: Page, photo: Path, tmp_path: Path) -> None:
    tall = Image.new("RGB", (300, 900), "white")
    tall.paste(Image.open(photo).resize((300, 225)), (0, 0))
    tall.save(tmp_path / "tall.png")
    upload(page, tmp_path / "tall.png")
    sizes = "canvas => [canvas.width / canvas.height, canvas.clientWidth / canvas.clientHeight]"
    assert page.locator("#crop").evaluate(sizes) == pytest.approx([1 / 3, 1 / 3], rel=0.02)
    coloured = """canvas => { const { width, height } = canvas;
        const seen = canvas.getContext("2d").getImageData(0, height * 0.9, width, height * 0.1).data;
        return seen.filter((value, i) => i % 4 < 3 && value < 200).length; }"""
    assert page.locator("#crop").evaluate(coloured) > 0  # the lower corners of the frame


def test_what_the_browser_alone_can_read_is_sent_as_it_is_shown(page: Page, photo: Path, tmp_path: Path) -> None:
    Image.open(photo).save(tmp_path / "shoe.avif")
    upload(page, tmp_path / "shoe.avif")
    expect(page.locator("#error")).to_be_hidden()


def test_of_two_photos_the_last_is_looked_for(page: Page, photo: Path) -> None:
    page.evaluate(
        """() => { const decode = createImageBitmap; let count = 0;
        window.createImageBitmap = (...given) => count++ ? decode(...given)
            : new Promise((done) => setTimeout(() => done(decode(...given)), 1500)); }"""
    )
    other = sorted(photo.parent.parent.parent.rglob("*.jpg"))[-1]
    page.set_input_files("#file", other)  # which takes long to decode
    upload(page, photo)
    seen, found = page.locator("#crop").evaluate("canvas => canvas.toDataURL()"), shown(page)
    page.wait_for_timeout(2000)
    assert page.locator("#crop").evaluate("canvas => canvas.toDataURL()") == seen and shown(page) == found


def test_a_drawn_shoe_and_its_neighbours(page: Page) -> None:
    page.click("#draw-link")
    expect(page.locator("#hits .far")).to_have_count(5)
    drawn = page.locator("#drawn").get_attribute("src")
    assert page.locator("#codes input").count() == 2
    page.locator("#codes input").first.press("End")
    expect(page.locator("#drawn")).not_to_have_attribute("src", drawn or "")
    moved = page.locator("#drawn").get_attribute("src")
    page.click("#surprise")
    expect(page.locator("#drawn")).not_to_have_attribute("src", moved or "")
    page.click("#hits .why >> nth=0")
    expect(page.locator("#why-words")).to_contain_text("rests on what is lit")


def test_the_map_by_hand_and_by_keyboard(page: Page) -> None:
    page.get_by_role("link", name="Map").click()
    expect(page.locator("#status")).to_have_text("120 shoes")
    far = page.locator("#plane").screenshot()
    page.locator("#clusters button").first.click()
    page.wait_for_load_state("networkidle")
    assert page.locator("#plane").screenshot() != far
    page.focus("#plane")
    page.keyboard.press("Enter")
    expect(page.locator("#point img")).to_be_visible()
    page.locator("#point .more").click()
    expect(page.locator("#hits .far")).to_have_count(5)


def test_why_these_two(page: Page, photo: Path) -> None:
    upload(page, photo)
    page.click("#hits .why >> nth=2")
    expect(page.locator("#why-words")).to_contain_text("rests on what is lit")
    pixels = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 256, 256).data].filter((v, i) => i % 4 == 0)"
    for canvas in ("#why-query", "#why-result"):
        values = page.locator(canvas).evaluate(pixels)
        assert max(values) - min(values) > 80  # dark where nothing counts, and lit where it does
    page.keyboard.press("Escape")
    expect(page.locator("#why")).to_be_hidden()


def test_a_broken_photo_gets_a_friendly_message(page: Page, photo: Path, tmp_path: Path) -> None:
    for name, content in (("torn.jpg", photo.read_bytes()[:700]), ("notes.png", b"no picture")):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#file", tmp_path / name)
        expect(page.get_by_role("alert")).to_contain_text("This photo cannot be read")
    upload(page, photo)
    expect(page.locator("#error")).to_be_hidden()


def test_nothing_serious_for_those_who_cannot_see_it(browser: Browser, service: Running, photo: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for scheme, width in (("light", 1280), ("dark", 390)):
        # The page's own policy would not let the checker in.
        context = browser.new_context(
            bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce"
        )  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(service.url)
        upload(page, photo)
        page.click("#filters summary") if width < 500 else None
        states = {"found": None, "why": "#hits .why >> nth=1", "draw": "#draw-link", "map": "nav a[href='#map']"}
        for state, click in states.items():
            if click:
                page.keyboard.press("Escape")
                page.click(click)
            expect(page.locator("#why-words" if state == "why" else "#status")).to_contain_text(
                re.compile("lit|of|shoes")
            )
            expect(page.locator("#hits.waiting")).to_have_count(0)
            page.wait_for_timeout(300)  # they fade in, and are paler until then
            found = Axe().run(page).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], (scheme, state)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        context.close()


def test_the_key_opens_it(browser: Browser, index_directory: Path) -> None:
    with Running(index_directory, SOLE2VEC_KEY="open sesame") as service:
        page = browser.new_page()
        page.goto(service.url)
        for key, words in (("wrong", "This is not the key."), ("open sesame", "")):
            page.fill("#key-input", key)
            page.keyboard.press("Enter")
            expect(page.locator("#key-error" if words else "#hits li:first-child strong")).to_contain_text(words)
        expect(page.locator("#hits li")).to_have_count(24)
        page.close()
