"""The page of the viewer: one file that needs no other."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from dyngraph.data.files import write_file


class Viewer:
    r"""A page that shows what models listen to, as :func:`explore` makes it.

    Args:
        page: The HTML text.
    """

    def __init__(self, page: str) -> None:
        self.page = page

    def save(self, path: str | Path) -> Path:
        r"""Writes the page as one file, which needs no other and no network.

        Args:
            path: The file, ending in ``.html``.

        Returns:
            The path.

        Raises:
            ValueError: If it ends in anything else.
            OSError: If it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"path: expected a .html file, got {path}")
        write_file(path, self.page.encode())
        return path

    def _repr_html_(self) -> str:
        r"""The page inside a notebook's, shut off from it."""
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" sandbox="allow-scripts" '
            'title="What the model listens to" '
            'style="width: 100%; height: 720px; border: 0"></iframe>'
        )


def render_page(page: Mapping[str, Any]) -> str:
    r"""The HTML text of a page, with everything in it that it needs."""
    folder = files("dyngraph.viz") / "viewer"
    style, script, frame = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("viewer.css", "viewer.js", "viewer.html")
    )
    # Data, which a browser must not take for markup.
    data = json.dumps(page, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    hashes = {"STYLE_HASH": _digest(style), "SCRIPT_HASH": _digest(script)}
    title = html.escape(page["title"])
    texts = {
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
        "TITLE": title,
        "TAB": f"{title}, dyngraph" if title else "dyngraph",
    }
    # One pass, so that no text is searched for the names of others.
    first, *parts = frame.split("{{")
    for part in parts:
        name, _, rest = part.partition("}}")
        first += (hashes | texts)[name] + rest
    return first


def _digest(text: str) -> str:
    """For the page's policy, which lets only these texts run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
