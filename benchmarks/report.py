"""How long the report of a large sweep takes to make, what it weighs, and how fast it answers in a browser.

    python benchmarks/report.py                            1,000 trials x 100 epochs, about a minute
    python benchmarks/report.py --trials 100 --epochs 20

The sweep is made up, and its files are those that a real one writes. Seconds are wall time of
`python -m lfm_ray.report` in a process of its own, imports included. Goals: under 20 s and 5 MB;
with Chromium and Playwright also the time until the page is drawn, and to find what is hovered.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from made_sweep import make_sweep
from progress import begin, say
from rows import RunningTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    begin("about a minute for 1,000 trials x 100 epochs")
    table = RunningTable({"what": 28, "value": 10}, f"{given.trials} trials x {given.epochs} epochs")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sweep"
        make_sweep(folder, given.trials, given.epochs)
        say("the sweep is made up")
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lfm_ray.report", str(folder)], check=True, capture_output=True)
        table.add("made in", f"{time.perf_counter() - started:.1f} s")
        page = folder / "report.html"
        table.add("the page", f"{page.stat().st_size / 1e6:.2f} MB")
        beside = sum(file.stat().st_size for file in (folder / "report").iterdir())
        table.add("PNG, SVG and CSV beside it", f"{beside / 1e6:.1f} MB")
        for name, value in in_browser(page).items():
            table.add(name, value)


def in_browser(page: Path) -> dict[str, str]:
    """Milliseconds until the page is drawn, to draw all figures anew, and to find the curve under the pointer."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        return {"in a browser": "not measured: no Chromium or no Playwright"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        loaded = tab.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
        drawn = tab.evaluate(
            "(() => { const t = performance.now(); panels.forEach(draw); return performance.now() - t })()"
        )
        found = tab.evaluate(
            "(() => { const t = performance.now(); for (let i = 0; i < 100; i++) nearest(panels[1], 60 + 4 * i, 150);"
            " return (performance.now() - t) / 100 })()"
        )
        browser.close()
    return {"opened in": f"{loaded:.0f} ms", "drawn anew in": f"{drawn:.0f} ms", "hovered curve": f"{found:.1f} ms"}


if __name__ == "__main__":
    main()
