"""Puts built pages into a site of several versions, whose pages then let one choose.

    make docs
    python docs/publish.py SITE VERSION

VERSION is a release, such as 0.1.0, or main. Pages that the site has of it are replaced.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

BUILT = Path(__file__).parent / "_build/html"


def publish(built: Path, site: Path, version: str) -> None:
    """Puts the pages into ``site/version`` and lists all versions, the newest first."""
    shutil.rmtree(site / version, ignore_errors=True)
    leave_out = shutil.ignore_patterns(".doctrees", ".buildinfo", "jupyter_execute")
    shutil.copytree(built, site / version, ignore=leave_out)
    versions = sorted(filter(_is_version, (path.name for path in site.iterdir())), key=_age)
    pages = {name: _pages(site / name) for name in versions}
    # A script, because pages on disk may not read JSON.
    Path(site, "versions.js").write_text(f"window.versions = {json.dumps(pages)};\n", "utf-8")
    newest = next((name for name in pages if name != "main"), "main")
    Path(site, "index.html").write_text(
        f'<!doctype html>\n<meta http-equiv="refresh" content="0; url={newest}/index.html">\n',
        "utf-8",
    )


def _is_version(name: str) -> bool:
    return re.fullmatch(r"main|\d+\.\d+\.\d+", name) is not None


def _age(name: str) -> tuple[int, ...]:
    """The newest first: main, then the releases."""
    return () if name == "main" else tuple(-int(part) for part in name.split("."))


def _pages(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=Path, help="the folder of the site")
    parser.add_argument("version", help="main, or a release")
    args = parser.parse_args()
    if not _is_version(args.version):
        parser.error(f"version: expected main or a release such as 0.1.0, got {args.version!r}")
    if not Path(BUILT, "index.html").exists():
        parser.error(f"{BUILT}: expected the built pages: make docs")
    publish(BUILT, args.site, args.version)


if __name__ == "__main__":
    main()
