"""The built pages: links lead somewhere, and formulas are drawn without a network."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.slow


class Anchors(HTMLParser):
    """The links of a page, and what links may lead to in it."""

    def __init__(self, page):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All pages, of which notebooks are not run: `make docs` does."""
    for module in ("sphinx", "furo", "myst_nb", "math_core"):
        pytest.importorskip(module, reason="needs pip install 'dyngraph[docs]'")
    out = tmp_path_factory.mktemp("html")
    # What has not run says not which language it is in.
    settings = ["-D", "nb_execution_mode=off", "-D", "suppress_warnings=myst-nb.lexer"]
    options = ["-W", "--keep-going", "-q", *settings, "-b", "html"]
    subprocess.run([sys.executable, "-m", "sphinx", *options, DOCS, out], check=True)
    return out


def test_links_between_pages_lead_somewhere(built):
    pages = {path: Anchors(path) for path in built.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            known = pages[target].ids if target in pages else None
            if not target.exists() or (url.fragment and known and url.fragment not in known):
                dead.append(f"{path.relative_to(built)}: {link}")
    assert len(pages) > 150
    assert dead == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_formulas_are_drawn_without_a_network(built):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_context(offline=True).new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        for name, least in (("mathematics", 100), ("reference/generated/dyngraph.nn.DGMNConv", 3)):
            page.goto((built / f"{name}.html").as_uri())
            formulas = page.locator("math")
            assert formulas.count() >= least
            boxes = [formulas.nth(number).bounding_box() for number in range(least)]
            assert all(box["width"] > 0 and box["height"] > 0 for box in boxes)
            # Code may have backslashes; text that a formula was to replace may not.
            page.evaluate("document.querySelectorAll('pre, code').forEach((e) => e.remove())")
            text = page.inner_text("article")
            assert not [sign for sign in ("\\", "$", "{", "}") if sign in text]
        assert requests
        assert all(url.startswith("file:") for url in requests)
        browser.close()
