"""Logs of runs, whole and broken. Those of real runs are read in ``test_fit.py``."""

import re

import pytest

from dyngraph.train import read_log


@pytest.fixture
def write(tmp_path):
    def write(text, part="csv"):
        path = tmp_path / part / "metrics.csv"
        path.parent.mkdir()
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_columns_by_iteration(write, tmp_path):
    write("loss,miou,step\n3.5,,0\n,0.25,10\n2.5,,10\n,nan,20\n")
    log = read_log(tmp_path)
    assert log["loss"] == {0: 3.5, 10: 2.5}
    assert [*log["miou"]] == [10, 20]
    assert log["miou"][10] == 0.25
    assert log["miou"][20] != log["miou"][20]
    assert log.keys() == {"loss", "miou"}


def test_parts_of_a_resumed_run_are_one(write, tmp_path):
    # In the order of the alphabet, 1000 would come before 200; it was the last.
    write("miou,step\n0.1,100\n0.2,200\n0.3,300\n")
    write("step,miou\n1100,0.9\n", part="csv-1000")
    write("miou,step\n0.5,300\n0.6,1000\n0.7,1100\n", part="csv-200")
    expected = {100: 0.1, 200: 0.2, 300: 0.5, 1000: 0.6, 1100: 0.9}
    assert read_log(tmp_path) == {"miou": expected}
    assert [*read_log(tmp_path)["miou"]] == [*expected]


def test_a_missing_log_is_named(tmp_path):
    path = tmp_path / "csv" / "metrics.csv"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}: expected the log of a ru")):
        read_log(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        read_log(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "miou,step\n", "miou,step\n,3\n"])
def test_an_empty_log_is_named(text, write, tmp_path):
    path = write(text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected the log of a run, got one")):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("miou,epoch\n0.1,1\n", 2, "KeyError('step')"),
        ("miou,step\n0.1,1\n0.1,\n", 3, "invalid literal for int"),
        ("miou,step\n0.1,1.5\n", 2, "invalid literal for int"),
        ("miou,step\nhigh,1\n", 2, "could not convert string to float: 'high'"),
        ("step,miou\n1,0.1\n2", 3, "NoneType"),
        ("miou,step\n0.1,1,7\n", 2, "list"),
        (b"miou,step\n\xff\xfe,1\n", 2, "could not convert string to float"),
        ("miou,step\n" + "9" * 200_000 + ",1\n", 1, "field larger than field limit"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:20],
)
def test_a_broken_log_is_named(text, line, found, write, tmp_path):
    path = write(text)
    message = rf"^{re.escape(str(path))}, near line {line}: expected a step and numbers, got .*"
    with pytest.raises(ValueError, match=message + re.escape(found)):
        read_log(tmp_path)
