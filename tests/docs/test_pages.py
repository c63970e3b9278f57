"""The built pages: links lead somewhere, and formulas are drawn without a network."""

import runpy
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


@pytest.fixture
def page():
    """A page of a browser without a network."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser.new_context(offline=True).new_page()
        browser.close()


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


def test_formulas_are_drawn_without_a_network(built, page):
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


def test_another_version_is_chosen(built, page, tmp_path):
    publish = runpy.run_path(str(DOCS / "publish.py"))["publish"]
    site = tmp_path / "site"
    for version in ("0.2.0", "main", "0.10.0", "0.1.0"):
        publish(built, site, version)
    # A page that an older version does not have.
    new = "reference/pictures.html"
    old = tmp_path / "old"
    shutil.copytree(built, old)
    (old / new).unlink()
    publish(old, site, "0.2.0")
    # The site leads to the newest release.
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/site/0.10.0/index.html")
    choice = page.get_by_label("Version")
    assert choice.locator("option").all_inner_texts() == ["main", "0.10.0", "0.2.0", "0.1.0"]
    assert choice.input_value() == "0.10.0"
    # The same page of another version, or its first if it has no such page.
    page.goto((site / "main" / new).as_uri())
    choice.select_option("0.10.0")
    page.wait_for_url(f"**/site/0.10.0/{new}")
    choice.select_option("0.2.0")
    page.wait_for_url("**/site/0.2.0/index.html")
    # Pages that stand alone have nothing to choose.
    page.goto((built / "index.html").as_uri())
    assert choice.count() == 0
