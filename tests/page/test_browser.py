"""
The page in a browser: every tab is opened and used, nothing is asked of another host, nothing is said on the console.

`.ci/browser` runs these where Chromium is. With PAGE_SCREENSHOTS=folder each tab's picture at three widths is kept.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from page_models import OFFERED, Slow, digit, make
from page_visitor import free_port

from hwzoo import page as pages
from hwzoo.models import Family
from hwzoo.page.answers import png
from hwzoo.page.entries import Entry

pytestmark = pytest.mark.browser
NAMES = list(OFFERED)
WIDTHS = (360, 768, 1280)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOTS = os.environ.get("PAGE_SCREENSHOTS")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """All kinds of tiny models, one that never comes to an end, and one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("served")
    names = [str(folder / name) for name in NAMES]
    for name in NAMES:
        if not (folder / name).is_dir():
            make(name, folder / name)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    entries = pages.load_entries([*names, str(folder / "broken")])
    entries.append(Entry("slow", "slow", Family("slow"), Slow()))
    blocks = pages.build(entries, 30)
    yield pages.serve(blocks, port=free_port()), {entry.title: entry for entry in entries}
    blocks.close()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tabs:
    """A page in a browser, and what it did that it should not."""

    def __init__(self, chromium, url, width=1280, scheme="light"):
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page, self.wrong, self.asked = self.context.new_page(), [], []
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.wrong.append(line.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.get_by_role("tab", name=NAMES[0], exact=True).wait_for()

    def open(self, *titles):
        """Goes to a tab, and one in it; at small widths some are in a menu."""
        for title in titles:
            found = self.visible(self.page.get_by_role("tab", name=title, exact=True))
            if not found.count():
                for menu in self.visible(self.page.locator(".overflow-menu > button")).all():
                    menu.click()
                    inside = self.visible(
                        self.page.locator(".overflow-dropdown button").get_by_text(title, exact=True)
                    )
                    if inside.count():
                        found = inside
                        break
                    menu.click()
            found.first.click()
            self.page.wait_for_timeout(50)
        return self

    def visible(self, found):
        return found.locator("visible=true")

    def button(self, name):
        return self.visible(self.page.get_by_role("button", name=name, exact=True)).first

    def answer(self, selector="*"):
        """What is shown as an answer; waits for it."""
        found = self.visible(self.page.locator(f".answer {selector}"))
        found.first.wait_for()
        return found

    def draw(self):
        """A stroke with the mouse over the board."""
        box = self.visible(self.page.locator("canvas")).first.bounding_box()
        mouse = self.page.mouse
        mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.2 * box["height"])
        mouse.down()
        for place in range(1, 11):
            mouse.move(box["x"] + (0.6 - 0.02 * place) * box["width"], box["y"] + (0.2 + 0.06 * place) * box["height"])
        mouse.up()

    def pixels(self, selector):
        """Of each picture that matches, its own levels as the browser has decoded them."""
        return self.page.evaluate(
            """selector => [...document.querySelectorAll(selector)].filter(each => each.offsetParent).map(each => {
              const canvas = document.createElement("canvas");
              canvas.width = each.naturalWidth ?? each.width; canvas.height = each.naturalHeight ?? each.height;
              const paint = canvas.getContext("2d"); paint.drawImage(each, 0, 0);
              const levels = paint.getImageData(0, 0, canvas.width, canvas.height).data;
              return [...levels].filter((_, place) => place % 4 == 0)})""",
            selector,
        )

    def close(self):
        self.context.close()
        assert self.wrong == []
        assert {each.split("/")[2].split(":")[0] for each in self.asked if each.startswith("http")} == {"127.0.0.1"}


@pytest.fixture
def tabs(chromium, served):
    made = Tabs(chromium, served[0])
    yield made
    made.close()


def use(tabs, title):
    """Does what a visitor does first on a control."""
    if tabs.visible(tabs.page.locator("canvas")).count():
        tabs.draw()
    elif tabs.visible(tabs.page.get_by_label("Prompt", exact=True)).count():
        tabs.visible(tabs.page.get_by_label("Prompt", exact=True)).first.fill("the plural of ox:")
    elif title == "Score words":
        tabs.visible(tabs.page.get_by_label("Answers, one a line")).first.fill("good\nbad")
    for name in ("Draw", "Go", "Run", "Complete", "Write", "Score"):
        found = tabs.visible(tabs.page.get_by_role("button", name=name, exact=True))
        if found.count():
            found.first.click()
            break
    tabs.answer()


@pytest.mark.parametrize("name", NAMES)
def test_every_control_answers(name, tabs):
    tabs.open(name)
    for title in OFFERED[name]:
        tabs.open(title)
        use(tabs, title)
        assert tabs.visible(tabs.page.locator(".wrong")).count() == 0, tabs.page.locator(".wrong").first.inner_text()
    tabs.open("About")
    tabs.answer()


def test_the_browser_gets_every_pixel_of_what_is_drawn(served, tabs):
    tabs.open("autoregressive", "Draw").button("Draw").click()
    image = tabs.answer("img").first
    expected = served[1]["autoregressive"].model.sample(8, generator=torch.Generator().manual_seed(0))
    assert tabs.pixels(".answer img") == [(255 * each).int().flatten().tolist() for each in expected]
    box = image.bounding_box()
    assert (box["width"], box["height"]) == (224, 224)  # 8 times
    assert image.evaluate("each => getComputedStyle(each).imageRendering") == "pixelated"
    assert image.get_attribute("alt") == "seed 0, image 1"


def test_a_stroke_is_what_the_classifier_sees(served, tabs):
    tabs.open("classifier", "Classify").draw()
    tabs.answer("td")
    (levels,) = tabs.pixels("canvas")
    assert 20 < sum(level > 200 for level in levels) < 200
    with torch.no_grad():
        picture = torch.tensor(levels).view(1, 1, 28, 28) / 255
        shares = served[1]["classifier"].model(pixel_values=picture).logits[0].softmax(-1)
    first = tabs.answer("tr").first.inner_text()
    assert f"LABEL_{shares.argmax()}" in first and f"{100 * shares.max():.1f} %" in first


def test_the_board_by_keys(tabs):
    tabs.open("classifier", "Classify")
    canvas = tabs.visible(tabs.page.locator("canvas")).first
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Space"):
        tabs.page.keyboard.press(key)
    tabs.answer("td")
    (levels,) = tabs.pixels("canvas")
    lit = {(place % 28, place // 28) for place, level in enumerate(levels) if level}
    assert lit == {(x, y) for x in (15, 16) for y in (16, 17)}
    assert canvas.evaluate("each => document.activeElement === each")  # it keeps the keys
    assert "column 16, row 17" in canvas.get_attribute("aria-label")
    tabs.page.keyboard.press("Delete")
    tabs.page.wait_for_timeout(300)
    assert set(tabs.pixels("canvas")[0]) == {0}
    tabs.draw()
    tabs.button("Rubber").click()
    assert tabs.button("Rubber").get_attribute("aria-pressed") == "true"
    tabs.draw()
    assert max(tabs.pixels("canvas")[0]) < 200
    tabs.button("Clear").click()
    assert set(tabs.pixels("canvas")[0]) == {0}


def test_draw_without_a_mouse(tabs):
    tabs.open("vae", "Draw")
    tabs.page.get_by_role("tab", name="Draw", exact=True).locator("visible=true").first.focus()
    for _ in range(40):
        tabs.page.keyboard.press("Tab")
        if tabs.page.evaluate("document.activeElement.innerText") == "Draw" and tabs.page.evaluate(
            "document.activeElement.getAttribute('role') !== 'tab'"
        ):
            break
    tabs.page.keyboard.press("Enter")
    assert tabs.answer("img").count() == 8


def test_a_film_is_moved_by_its_slider(tabs):
    tabs.open("vae", "Path").button("Go").click()
    slider = tabs.answer(".film input").first
    before = tabs.pixels(".film .frame:not([hidden]) img")
    slider.focus()
    tabs.page.keyboard.press("Home")
    assert tabs.pixels(".film .frame:not([hidden]) img") == [tabs.pixels(".answer > .wide img")[0]] != before
    assert slider.get_attribute("aria-valuetext") == "0%"
    assert tabs.answer(".film output").first.inner_text() == "0%"
    tabs.page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "100%"


def test_moving_a_slider_asks_again(tabs):
    tabs.open("vae", "Plane")
    tabs.answer("img")  # without a click
    before = tabs.pixels(".answer img")
    slider = tabs.visible(tabs.page.locator("input[type=range]")).first
    slider.focus()
    tabs.page.keyboard.press("ArrowRight")
    tabs.page.keyboard.press("ArrowRight")
    slider.evaluate("each => each.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}))")
    tabs.button("Run").click()
    tabs.page.wait_for_function("before => document.querySelectorAll('.answer img')[0].src !== before", arg="")
    deadline = time.monotonic() + 10
    while tabs.pixels(".answer img") == before and time.monotonic() < deadline:
        tabs.page.wait_for_timeout(100)
    assert len(tabs.pixels(".answer img")) == 25 and tabs.pixels(".answer img") != before


def test_a_call_is_cancelled(served, tabs):
    slow = served[1]["slow"]
    tabs.open("slow", "Draw").button("Draw").click()
    deadline = time.monotonic() + 10
    while not slow.model.steps and time.monotonic() < deadline:
        tabs.page.wait_for_timeout(50)
    assert slow.lock.locked()
    tabs.visible(tabs.page.locator(".progress-text, .progress-level, .progress-bar")).first.wait_for()
    tabs.button("Cancel").click()
    assert "ancelled" in tabs.answer("p").first.inner_text()
    deadline = time.monotonic() + 10
    while slow.lock.locked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not slow.lock.locked()


def test_pictures_are_uploaded_and_other_files_refused(tabs, tmp_path):
    (tmp_path / "digit.png").write_bytes(png(digit(4)))
    (tmp_path / "notes.png").write_bytes(b"no picture")
    tabs.open("classifier", "Classify")
    with tabs.page.expect_file_chooser() as opened:
        tabs.button("Upload").click()
    opened.value.set_files(tmp_path / "digit.png")
    tabs.answer("td")
    assert tabs.pixels("canvas") == [(255 * digit(4)).round().int().flatten().tolist()]
    with tabs.page.expect_file_chooser() as opened:
        tabs.button("Upload").click()
    opened.value.set_files(tmp_path / "notes.png")
    tabs.page.get_by_text("that is no PNG").first.wait_for()
    assert tabs.pixels("canvas") == [(255 * digit(4)).round().int().flatten().tolist()]


def test_an_example_comes_onto_the_board(served, tabs):
    tabs.open("vae", "Reconstruct").button("Example").click()
    tabs.answer("img")
    (levels,) = tabs.pixels("canvas")
    images, _ = served[1]["vae"].training_images
    assert any(levels == each for each in (255 * images).round().int().flatten(1).tolist())


def test_a_wrong_value_is_a_line(tabs):
    tabs.open("vae", "Draw")
    seed = tabs.visible(tabs.page.get_by_label("Seed", exact=True)).first
    seed.fill("-1")
    tabs.button("Draw").click()
    assert "whole number from 0 to 4294967295" in tabs.answer("p.wrong").first.inner_text()
    seed.fill("5")
    tabs.button("Draw").click()
    tabs.answer("img")


def test_what_cannot_be_loaded_is_a_line(tabs):
    tabs.open("broken")
    assert "not valid JSON" in tabs.answer("p.wrong").first.inner_text()


def test_models_are_compared(served, tabs):
    tabs.open("Compare").button("Draw").click()
    tabs.answer("img")
    expected = served[1]["vae"].model.sample(4, generator=torch.Generator().manual_seed(0))
    assert tabs.pixels(".answer img")[:4] == [(255 * each).round().int().flatten().tolist() for each in expected]


def test_visitors_at_once_get_their_own(chromium, served):
    made = [Tabs(chromium, served[0]) for _ in range(2)]
    for place, tabs in enumerate(made):
        tabs.open("gan", "Draw")
        tabs.visible(tabs.page.get_by_label("Seed", exact=True)).first.fill(str(place + 40))
    for tabs in made:
        tabs.button("Draw").click()
    for place, tabs in enumerate(made):
        tabs.answer("img")
        expected = served[1]["gan"].model.sample(8, generator=torch.Generator().manual_seed(place + 40))
        assert tabs.pixels(".answer img") == [(255 * each).round().int().flatten().tolist() for each in expected]
        tabs.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_by_axe(scheme, chromium, served):
    from axe_playwright_python.sync_playwright import Axe

    tabs, axe = Tabs(chromium, served[0], scheme=scheme), Axe()
    found = {}
    for name in [*NAMES, "broken"]:
        tabs.open(name)
        for title in OFFERED.get(name, [""]):
            if title:
                tabs.open(title)
                use(tabs, title)
            waiting = "!document.querySelector('.pending') && !document.querySelector('.progress-text')"
            tabs.page.wait_for_function(waiting)  # an answer that is replaced is pale
            tabs.page.wait_for_timeout(400)  # colours fade
            for rule in axe.run(tabs.page).response["violations"]:
                if rule["impact"] in ("serious", "critical"):
                    found.setdefault(rule["id"], [f"{name}: {title}: {node['html'][:160]}" for node in rule["nodes"]])
    assert found == {}
    tabs.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_fits_the_screen(width, scheme, chromium, served):
    tabs = Tabs(chromium, served[0], width, scheme)
    for name in [*NAMES, "broken", "Compare"]:
        tabs.open(name)
        for title in [*OFFERED.get(name, []), *(["About"] if name in OFFERED else [""])]:
            if title:
                tabs.open(title)
            if title and title != "About":
                use(tabs, title)
            assert tabs.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, title)
            if SHOTS:
                Path(SHOTS).mkdir(exist_ok=True)
                tabs.page.wait_for_timeout(300)
                tabs.page.screenshot(path=f"{SHOTS}/{name}-{title}-{width}-{scheme}.png", full_page=True)
    tabs.close()
