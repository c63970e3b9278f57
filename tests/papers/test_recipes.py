"""Every row of the papers' tables has a recipe with its settings, and its numbers on our page."""

import re
from pathlib import Path
from typing import Any

import pytest
from tables import ROWS, Row

from dyngraph.config import read_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
PAGE = (ROOT / "docs/reproduce.md").read_text()
#: Files of others' papers, which have a table of the released settings on the page.
DGMN2 = re.compile(r"dgmn2/|coco/dgmn2_")


def row_id(row: Row) -> str:
    return f"{row.paper} {row.table}: {row.name}"


def lookup(config: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; None where a part is missing."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_row_has_a_recipe_with_its_settings(row):
    config = read_config(CONFIGS / f"{row.file}.yaml")
    for key, want in row.settings.items():
        if want is not ...:
            assert lookup(config, key) == want, key


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "DGMNBlock" in str(row.settings)], ids=row_id
)
def test_a_dgmn_row_says_all_that_is_not_the_default(row):
    """An argument that the paper's row does not have is not in the file."""
    arguments = lookup(read_config(CONFIGS / f"{row.file}.yaml"), "network.context.init_args")
    known = {key.rpartition(".")[2] for key in row.settings if "init_args" in key}
    assert set(arguments) - known <= {"groups", "fusion"}
    assert arguments.get("groups", 4) == row.settings.get("network.context.init_args.groups", 4)


def tables() -> dict[tuple[str, str], dict[str, list[str]]]:
    """The cells of the page's tables, by paper and table, then by the name of the row."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    paper, rows = "", None
    for line in PAGE.splitlines():
        if line.startswith("## "):
            paper, rows = line[3:].split(" ")[0], None
        elif match := re.match(r"### Table (\w+)", line):
            rows = found.setdefault((paper, match.group(1)), {})
        elif line.startswith("|") and rows is not None:
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name] = cells
    return found


TABLES = tables()


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_rows_file_and_numbers_are_on_the_page(row):
    file, *cells = TABLES[row.paper, row.table][row.name]
    assert file == f"`{row.file.partition('/')[2]}`"
    # In the order of the paper; cells of ours are not among them, because they are in italics.
    published = [cell for cell in cells if cell and not cell.startswith("*")]
    assert published == list(row.numbers)


def test_the_page_has_no_other_rows():
    known = {(row.paper, row.table, row.name) for row in ROWS}
    page = {
        (*table, name)
        for table, rows in TABLES.items()
        for name in rows
        if name != "row" and not set(name) <= set("-: ")
    }
    assert page == known


def test_every_file_is_a_rows_or_says_that_it_is_ours():
    files = {
        path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")
    }
    ours = {file for file in files if (CONFIGS / f"{file}.yaml").read_text().startswith("# Ours: ")}
    released = {file for file in files if DGMN2.match(file)}
    assert files - ours - released == {row.file for row in ROWS}
    assert len(ours) < 5


def test_files_of_dgmn2_are_on_the_page():
    for path in CONFIGS.rglob("*.yaml"):
        file = path.relative_to(ROOT).with_suffix("").as_posix()
        if "dgmn2" in file:
            assert f"`{file}`" in PAGE
