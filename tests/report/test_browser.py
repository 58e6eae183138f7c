"""The page as people use it: in a browser, with no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from made_sweep import make_sweep

from lfm_ray.report.page import write_report
from lfm_ray.search.selection import best_of
from lfm_ray.search.sweep import Sweep

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    result = make_sweep(tmp_path_factory.mktemp("sweeps") / "mine")
    write_report([result.folder], result.folder / "report.html")
    return result


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, sweep: Sweep) -> Iterator[Any]:
    """The page; the test fails if it asks for anything or complains of anything."""
    address = (sweep.folder / "report.html").as_uri()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url == address or complaints.append(request.url))
    page.goto(address)
    yield page
    assert complaints == []
    context.close()


def test_the_numbers_of_the_table_are_those_of_its_csv(opened: Any, sweep: Sweep) -> None:
    header, *rows = opened.eval_on_selector_all(
        "#strategies tr", "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    )
    frame = pd.read_csv(sweep.folder / "report/strategies.csv").set_index("strategy")
    assert {row[0] for row in rows} == set(frame.index)
    for row in rows:
        for column, shown in zip(header[1:], row[1:], strict=True):
            value = frame.loc[row[0], column]
            assert shown == ("-" if pd.isna(value) else f"{value:.3f}" if "." in shown else f"{value:.0f}")


def end_of(page: Any, plot: str, which: str) -> tuple[float, float]:
    """Where on the screen the curve ends that `which`, JavaScript on all ends, chooses."""
    page.locator(f"#plot-{plot}").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """([plot, which]) => {
            const ends = [...document.querySelectorAll(`#plot-${plot} .curve`)].map((path) => {
                const end = path.getPointAtLength(path.getTotalLength()).matrixTransform(path.getScreenCTM());
                return [end.x, end.y];
            });
            return eval(which)(ends);
        }""",
        [plot, which],
    )
    return x, y


def test_hovering_a_curve_names_its_trial_and_lights_it_up_everywhere(opened: Any, sweep: Sweep) -> None:
    best = best_of(sweep.trials())
    assert best is not None
    longest = "ends => ends.filter(end => end[0] > Math.max(...ends.map(e => e[0])) - 1)"
    opened.mouse.move(*end_of(opened, "accuracy-fused", f"ends => ({longest})(ends).sort((a, b) => a[1] - b[1])[0]"))
    tip = opened.locator("#tip")
    assert tip.is_visible()
    assert tip.inner_text().startswith(f"trial {best.number}, {best.strategy}, {best.reached:.3f}\n")
    assert f"epoch {best.config.epochs}, validation accuracy {best.reached:.4g}" in tip.inner_text()
    lit = opened.eval_on_selector_all(".plot", "all => all.filter(p => p.querySelector('.hot').getAttribute('d'))"
                                      ".map(p => p.id)")  # fmt: skip
    assert {"plot-alpha", "plot-accuracy-audio", "plot-best-so-far", "plot-settings"} <= set(lit)
    opened.mouse.move(5, 5)
    assert not tip.is_visible()


def test_the_legend_hides_a_group_in_every_figure(opened: Any) -> None:
    shown = "all => all.filter(curve => curve.style.display !== 'none').length"
    before = opened.eval_on_selector_all(".curve", shown)
    button = opened.locator("#legend button", has_text="heuristic")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert opened.eval_on_selector_all(".curve", shown) < before
    button.click()
    assert opened.eval_on_selector_all(".curve", shown) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(opened: Any, scheme: str) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.reload()
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    red = opened.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) > 127) == (scheme == "light")


def test_on_paper_it_is_light_fits_and_explains_its_colours_in_each_figure(opened: Any) -> None:
    details = opened.locator("details").first
    on_screen = opened.locator("#plot-alpha svg").get_attribute("width")
    opened.emulate_media(media="print", color_scheme="dark")
    opened.set_viewport_size({"width": 700, "height": 1000})  # of A4 within its margins
    opened.wait_for_timeout(400)  # until it has been drawn for this width
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.evaluate("document.documentElement.scrollWidth") <= 700
    assert not opened.locator("#legend").is_visible()
    for keys in opened.locator("figure:has(.plot) .keys").all():
        assert "heuristic" in keys.inner_text()
    assert opened.locator("#plot-alpha svg").get_attribute("width") == "330"
    assert details.get_attribute("open") is not None
    opened.emulate_media(media="screen")
    opened.set_viewport_size({"width": 1280, "height": 900})
    opened.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert details.get_attribute("open") is None
    assert opened.locator("#plot-alpha svg").get_attribute("width") == on_screen
