import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dyngraph.data.name_list import read_names

NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=1, unique=True),
    end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from(["", "\n", " \r\n\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_names_are_read_as_they_were_written(tmp_path, names, end, tail, mark):
    path = tmp_path / "names.txt"
    path.write_bytes((mark + end.join(f" {name}\t" for name in names) + tail).encode())
    assert read_names(path) == tuple(names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary())
def test_any_content_is_read_or_refused(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    names, problem = None, None
    try:
        names = read_names(path)
    except ValueError as error:
        problem = str(error)
    if names is None:
        assert str(path) in problem
    else:
        assert names
        assert all(name and name == name.strip() for name in names)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": expected a name a line, got none"),
        (b" \n\n", ": expected a name a line, got none"),
        (b"a\n\nb", ", line 2: expected a new name, got an empty line"),
        (b"\na", ", line 1: expected a new name, got an empty line"),
        (b"a\nb\n a\n", ", line 3: expected a new name, got 'a' again"),
        (b"a\n\xff", ": expected UTF-8 text, got "),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}{message}")):
        read_names(path)


def test_missing_file(tmp_path):
    path = tmp_path / "names.txt"
    with pytest.raises(FileNotFoundError, match=re.escape(f"expected the file {path}, which is")):
        read_names(path)
