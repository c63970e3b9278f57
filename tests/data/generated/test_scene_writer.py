import json
import os
from pathlib import Path

import pytest
from PIL import Image

from dyngraph.data.generated import scene_writer
from dyngraph.data.generated.scene_writer import write_scenes


def paths(split, number):
    return Path("images", split, f"{number}.jpg"), Path("labels", split, f"{number}.png")


def draw(split, number):
    return Image.new("RGB", (4, 3), (number, 0, 0)), Image.new("L", (4, 3), number)


def write(root, draw=draw, **kwargs):
    arguments = {
        "counts": {"train": 2, "val": 1},
        "parameters": {"seed": 0},
        "texts": {"lists/train.txt": lambda: "0\n1\n"},
        "progress": False,
        **kwargs,
    }
    write_scenes(root, paths=paths, draw=draw, **arguments)


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_set(tmp_path):
    write(tmp_path / "new" / "set")
    assert files(tmp_path / "new" / "set") == [
        "images/train/0.jpg",
        "images/train/1.jpg",
        "images/val/0.jpg",
        "labels/train/0.png",
        "labels/train/1.png",
        "labels/val/0.png",
        "lists/train.txt",
        "scenes.json",
    ]
    with Image.open(tmp_path / "new/set/images/train/1.jpg") as image:
        assert image.format == "JPEG"
    with Image.open(tmp_path / "new/set/labels/train/1.png") as label:
        assert label.format == "PNG"
        assert label.getextrema() == (1, 1)
    marker = json.loads((tmp_path / "new/set/scenes.json").read_text())
    parameters = {"num_train": 2, "num_val": 1, "seed": 0}
    assert marker == {"finished": True, "parameters": parameters}


def test_an_interrupted_set_has_no_list_yet_and_is_completed(tmp_path):
    drawn = []

    def draw_some(split, number):
        drawn.append((split, number))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(split, number)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, draw_some)
    assert files(tmp_path) == ["images/train/0.jpg", "labels/train/0.png", "scenes.json"]
    write(tmp_path, draw_some)
    assert drawn[2:] == [("train", 1), ("val", 0)]
    before = files(tmp_path)
    assert len(before) == 8
    write(tmp_path, draw=None)
    assert files(tmp_path) == before


def test_scenes_of_one_image(tmp_path):
    def write_images(texts):
        write_scenes(
            tmp_path,
            counts={"train": 2},
            parameters={},
            paths=lambda split, number: paths(split, number)[:1],
            draw=lambda split, number: draw(split, number)[:1],
            texts=texts,
            progress=False,
        )

    def count_images():
        return str(len([*tmp_path.rglob("*.jpg")]))

    write_images({"count.json": count_images})
    images = ["images/train/0.jpg", "images/train/1.jpg"]
    assert files(tmp_path) == ["count.json", *images, "scenes.json"]
    assert (tmp_path / "count.json").read_text() == "2"
    write_images({"count.json": None})


def test_a_file_appears_only_when_it_is_whole(tmp_path, monkeypatch):
    def fail(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        scene_writer._write(tmp_path / "data" / "a.png", b"content", tmp_path)
    assert os.listdir(tmp_path / "data") == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", "null", "\xff"])
def test_broken_marker(tmp_path, content):
    (tmp_path / "scenes.json").write_text(content, encoding="latin1")
    with pytest.raises(ValueError, match=r"root: expected the parameters of scenes in .*\.json"):
        write(tmp_path)


@pytest.mark.parametrize("other", [{"counts": {"train": 2}}, {"parameters": {"seed": 1}}])
def test_a_set_of_other_parameters(tmp_path, other):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"root: expected scenes of .* got"):
        write(tmp_path, **other)


@pytest.mark.parametrize("name", ["images", "labels", "lists"])
def test_something_else_in_the_way(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"root: expected a new folder, got .* with {name} in it"):
        write(tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("count", [-1, 1_000_001])
def test_number_of_scenes_out_of_range(tmp_path, count):
    with pytest.raises(ValueError, match=rf"^num_val: expected 0\.\.1000000, got {count}$"):
        write(tmp_path, counts={"train": 1, "val": count})
