"""The recipes have the settings that our page lists for all rows together."""

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from dyngraph.cli import main

ROOT = Path(__file__).parents[2]


def settings(path, capsys):
    """What ``--print_config`` shows of a recipe."""
    with pytest.raises(SystemExit):
        main(["fit", f"--config={ROOT / path}", "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def table_rows(columns):
    """The rows of the tables of settings in ``docs/reproduce.md``, by their number of columns."""
    lines = (ROOT / "docs/reproduce.md").read_text().splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns and row[0].startswith("configs/")]


@pytest.mark.parametrize("row", table_rows(9), ids=lambda row: row[0])
def test_segmenters(row, capsys):
    path, backbone, crop, batch_size, optimizer, lr, weight_decay, steps, aux_weight = row
    found = settings(path, capsys)
    assert found["network"]["backbone"] == backbone
    assert found["data"]["crop_size"] == [int(crop)] * 2
    assert found["data"]["batch_size"] == int(batch_size)
    assert found["model"]["optimizer"] == optimizer
    assert found["model"]["lr"] == float(lr)
    assert found["model"]["weight_decay"] == float(weight_decay)
    assert found["model"]["momentum"] == 0.9
    assert found["network"]["aux_loss"] == (aux_weight != "none")
    assert not found["network"]["aux_loss"] or found["model"]["aux_weight"] == float(aux_weight)
    assert found["trainer"]["max_steps"] == int(steps)


@pytest.mark.parametrize("row", table_rows(10), ids=lambda row: row[0])
def test_detectors(row, capsys):
    path, backbone, size, batch_size, optimizer, lr, weight_decay, steps, decay_steps, warmup = row
    found = settings(path, capsys)
    assert found["network"]["backbone"] == backbone
    sides = [found["network"][name] for name in ("min_size", "max_size")]
    assert "/".join(map(str, sides)) == size
    assert found["data"]["batch_size"] == int(batch_size)
    assert found["model"]["optimizer"] == optimizer
    assert found["model"]["lr"] == float(lr)
    assert found["model"]["weight_decay"] == float(weight_decay)
    assert found["model"]["momentum"] == 0.9
    assert found["trainer"]["max_steps"] == int(steps)
    assert found["model"]["decay_steps"] == [int(step) for step in decay_steps.split(", ")]
    warmup_steps, warmup_factor = warmup.split(", from ")
    assert found["model"]["warmup_steps"] == int(warmup_steps)
    assert found["model"]["warmup_factor"] == float(Fraction(warmup_factor))
    assert found["trainer"]["gradient_clip_val"] is None


def test_the_tables_have_every_recipe_that_sets_them():
    paths = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/*/*.yaml"))
    bases = {
        str(path)
        for path in paths
        if {"lr", "weight_decay"} & set(yaml.safe_load((ROOT / path).read_text()).get("model", {}))
    }
    assert {row[0] for columns in (9, 10) for row in table_rows(columns)} >= bases
