"""Drawn settings on the command line: each is taken, or refused in one line."""

import contextlib
import io

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dyngraph.cli import main
from dyngraph.cli.main import COMMANDS, RUNS

pytestmark = pytest.mark.slow

SETTINGS = settings.get_profile("fuzz")

WORDS = st.sampled_from(
    ["-1", "0", "1e400", "nan", "null", "true", "[", "[[1, 2]]", "{a: 1}", "{class_path: 3}",
     "{class_path: dyngraph.nn.DGMNBlock}", "dyngraph.nn.nothing", "small_trunk", "é\n", "-", "--",
     "&a *a", "!!python/name:os.abort", ": :", "0x10", "1_000", "2020-01-01", "resnet18", "dgmn"]
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=5,
)
KEYS = {
    task: sorted({*COMMANDS["predict"](run).get_defaults(skip_validation=True).keys()} - {"config"})
    for task, run in RUNS.items()
}


def said(arguments):
    """The exit code, 0 without one, and what a command writes to standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as stop:
            return stop.code, errors.getvalue()
    return 0, errors.getvalue()


@pytest.fixture(autouse=True)
def parsed_only(monkeypatch):
    """Has no command do anything with its arguments."""
    for run in RUNS.values():
        for command in COMMANDS:
            monkeypatch.setattr(type(run), command, lambda *_: None)


def assert_taken_or_refused(arguments):
    code, errors = said(arguments)
    assert code in (0, 2)
    lines = errors.splitlines()
    assert len(lines) == (1 if code else 0)
    assert all(line.startswith("dyngraph: ") for line in lines)


@st.composite
def tasks_and_values(draw):
    task = draw(st.sampled_from(sorted(RUNS)))
    keys = draw(st.lists(st.sampled_from(KEYS[task]), min_size=1, max_size=3, unique=True))
    return task, {key: draw(VALUES) for key in keys}


def required(task):
    return [
        "predict", f"--task={task}", "--network.backbone=resnet18", "--trainer.max_steps=1",
        "--images=here", "--out=there",
    ]  # fmt: skip


@SETTINGS
@given(tasks_and_values())
def test_arguments(drawn):
    task, values = drawn
    assert_taken_or_refused(
        [*required(task), *(f"--{key}={value}" for key, value in values.items())]
    )


@SETTINGS
@given(tasks_and_values())
def test_files_of_settings(tmp_path_factory, drawn):
    task, values = drawn
    config = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        if not name:
            config[group] = value
        elif isinstance(config.setdefault(group, {}), dict):
            config[group][name] = value
    path = tmp_path_factory.getbasetemp() / "settings.yaml"
    path.write_text(yaml.safe_dump(config))
    assert_taken_or_refused([*required(task), f"--config={path}"])
