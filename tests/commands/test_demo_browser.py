"""The demo's page in a headless browser: nothing is fetched, nothing overlaps, nothing leaves the window."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from rich.console import Console
from tiny_engine import tiny_model

from rcjax.commands.demo.run import run_demo

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")

# Stands in for a person's eye: boxes of what is to be read or compared, once all is laid out.
EYE = """<script>addEventListener("load", () => {
  const box = one => { const b = one.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };
  const rows = [...document.querySelectorAll(".row")].map(row => [...row.children].map(box));
  const bars = [...document.querySelectorAll("svg.bar")].map(bar => [box(bar), box(bar.firstElementChild)]);
  const blocks = [...document.querySelectorAll("h1, h2, p, li, .row, .lanes")].map(box);
  const fetched = performance.getEntriesByType("resource").map(entry => entry.name);
  const found = { inner: innerWidth, scroll: document.documentElement.scrollWidth, rows, bars, blocks, fetched };
  document.documentElement.dataset.found = JSON.stringify(found);
})</script>"""


@pytest.fixture(scope="module")
def page(shop_settings, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "demo.html"
    settings = shop_settings.model_copy(update={"default_arm": "parallel"})
    report = run_demo(Console(quiet=True), settings, 1, model=tiny_model(), html=file, num_quality_requests=3)
    return report, file


def seen(page, width: int):
    """What the eye finds in a window of so many pixels."""
    _, file = page
    text, num_policies = re.subn(r"<meta http-equiv=[^>]*>", "", file.read_text("utf-8"))  # it lets no script run
    assert num_policies == 1
    watched = file.with_name(f"watched-{width}.html")
    watched.write_text(text.replace("</body>", f"{EYE}</body>"), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},1000"]
    profile = f"--user-data-dir={file.with_name('profile')}"
    asked = [BROWSER, *flags, profile, "--dump-dom", watched.as_uri()]
    dumped = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(unescape(re.search(r'data-found="([^"]*)"', dumped)[1]))
    assert abs(found["inner"] - width) <= 20
    return found


@pytest.mark.parametrize("width", [520, 1200])
def test_nothing_is_fetched_overlaps_or_leaves_the_window(page, width):
    found = seen(page, width)
    assert found["fetched"] == []
    assert found["scroll"] <= found["inner"]
    assert len(found["rows"]) == 4 + 4 + 4, "prompts, times, quality"
    for boxes in (*found["rows"], found["blocks"]):
        for n, one in enumerate(boxes):
            assert one[2] > one[0]
            assert one[3] > one[1]
            assert one[2] <= found["inner"]
            assert not [other for other in boxes[n + 1 :] if overlap(one, other) > 1.0]


def test_bars_are_as_long_as_what_they_stand_for(page):
    report, _ = page
    found = seen(page, 1200)
    shares = [(bar[2] - bar[0]) / (whole[2] - whole[0]) for whole, bar in found["bars"]]
    ms = [answers[0].result.times.ttft_ms for answers in report.answers.values()]
    ndcg = [row.ndcg for row in report.quality.rows]
    assert shares == pytest.approx([*(one / max(ms) for one in ms), *(one / max(ndcg) for one in ndcg)], abs=0.005)


def overlap(one: list[float], other: list[float]) -> float:
    """Pixels, in the direction in which it is less."""
    return min(min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
