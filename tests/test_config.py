import pytest
import yaml

from dyngraph.config import read_config


def write(folder, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


def test_settings_are_inherited_one_by_one(tmp_path):
    base = {"model": {"lr": 0.1, "momentum": 0.9}, "data": {"crop_size": [8, 8]}, "seed": 3}
    last = write(
        tmp_path,
        base=base,
        middle={"inherit": "base.yaml", "model": {"lr": 0.2}},
        last={"inherit": "middle.yaml", "data": {"crop_size": [4, 6]}, "new": None},
    )
    assert read_config(last) == {
        "model": {"lr": 0.2, "momentum": 0.9},
        "data": {"crop_size": [4, 6]},
        "seed": 3,
        "new": None,
    }


def test_another_class_drops_the_arguments_of_the_former(tmp_path):
    context = {"class_path": "a.B", "init_args": {"rates": [1]}}
    same = {"class_path": "a.B", "init_args": {"groups": 2}}
    other = {"class_path": "a.C", "init_args": {"groups": 2}}
    for changes, args in ((same, {"rates": [1], "groups": 2}), (other, {"groups": 2})):
        last = write(
            tmp_path,
            base={"network": {"context": context}},
            last={"inherit": "base.yaml", "network": {"context": changes}},
        )
        assert read_config(last)["network"]["context"]["init_args"] == args
    last = write(
        tmp_path,
        base={"network": {"context": "dgmn"}},
        last={"inherit": "base.yaml", "network": {"context": other}},
    )
    assert read_config(last)["network"]["context"] == other


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "a: !!python/object/apply:os.getcwd []"])
def test_a_broken_file_is_named(tmp_path, content):
    base = tmp_path / "base.yaml"
    base.write_text(content)
    last = write(tmp_path, last={"inherit": "base.yaml"})
    with pytest.raises(ValueError, match=f"^{base}: expected"):
        read_config(last)
    base.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=f"^{base}: expected YAML"):
        read_config(last)


def bomb():
    """Nine levels of nine aliases: 3.5 billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "expected at most 10000 values"),
        (f"a: {1000 * '['}{1000 * ']'}", "expected values nested at most 50 deep"),
        ("a: &a [*a]", r"\*a: expected no value inside itself"),
        (f"a: {1_000_000 * 'x'}", "expected at most 1000000 bytes"),
    ],
)
def test_a_file_that_outgrows_any_configuration_is_refused(content, message, tmp_path):
    path = write(tmp_path, bomb=content)
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        read_config(path)


def test_aliases_are_taken(tmp_path):
    path = write(tmp_path, some="a: &a {b: &b [1, 2]}\nc: *a\nd: [*b, *b]\n")
    pair = [1, 2]
    assert read_config(path) == {"a": {"b": pair}, "c": {"b": pair}, "d": [pair, pair]}


def test_a_missing_file_is_named(tmp_path):
    last = write(tmp_path, last={"inherit": "nowhere.yaml"})
    with pytest.raises(FileNotFoundError, match=rf"^{last}: inherit: .*nowhere\.yaml"):
        read_config(last)
    for parent in (3, "a\0b"):
        with pytest.raises(ValueError, match=f"^{last}: inherit: expected the path"):
            read_config(write(tmp_path, last={"inherit": parent}))


def test_no_file_inherits_from_itself(tmp_path):
    last = write(tmp_path, base={"inherit": "last.yaml"}, last={"inherit": "base.yaml"})
    with pytest.raises(ValueError, match="inherits from itself"):
        read_config(last)
