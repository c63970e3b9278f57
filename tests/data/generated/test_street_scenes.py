import json
import os
import sys

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from PIL import Image
from torchvision.datasets import Cityscapes

from dyngraph.data import (
    CLASS_NAMES,
    OBJECT_CLASSES,
    CityscapesSegmentation,
    encode_labels,
    generate_scenes,
)
from dyngraph.data.generated import scene_writer, street_scenes
from dyngraph.data.generated.street_scenes import draw_scene

SIZE = (64, 128)
STRIP = 12
# Fence and wall, for vertical and horizontal stripes.
STRIP_IDS = (13, 12)


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def generate(root, **kwargs):
    generate_scenes(root, **{"num_train": 4, "num_val": 2, "progress": False, **kwargs})


def draw(seed, size=SIZE, texture=0, drawn_texture=0):
    textures = np.array([texture]), np.array([drawn_texture])
    return street_scenes._draw(np.random.default_rng(seed), size, *textures)


def drawn_texture(image, rows=STRIP):
    """0 for vertical stripes, 1 for horizontal ones, from the pixels of the strip."""
    strip = image[:rows].mean(-1)
    return int(strip.mean(1).std() > strip.mean(0).std())


def components(mask):
    """The boxes (top, bottom, left, right) of the connected objects of a mask, column by column."""
    columns = np.flatnonzero(mask.any(0))
    for part in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
        rows = np.flatnonzero(mask[:, part].any(1))
        yield rows[0], rows[-1] + 1, part[0], part[-1] + 1


def objects(ids):
    """The class and the box of each object, in train ids."""
    train_ids = encode_labels(torch.from_numpy(ids)).numpy()
    for number in OBJECT_CLASSES:
        mask = train_ids == number
        if mask.any():
            for box in components(mask):
                yield number, box


def test_object_classes():
    assert [CLASS_NAMES[number] for number in OBJECT_CLASSES] == ["car", "truck", "bus", "train"]


def test_the_tree_is_that_of_cityscapes(tmp_path):
    generate(tmp_path)
    for split, count in [("train", 4), ("val", 2)]:
        dataset = Cityscapes(str(tmp_path), split, mode="fine", target_type="semantic")
        assert len(dataset) == count
        image, label = dataset[0]
        assert image.size == label.size == (128, 64)
        assert image.mode == "RGB"
        assert label.mode == "L"
        ours = CityscapesSegmentation(tmp_path, split)
        assert len(ours) == count
        for index, (pixels, train_ids) in enumerate(ours):
            expected = draw_scene(0, split, index, size=SIZE, cue=True, panels=False)
            assert np.array_equal(pixels.permute(1, 2, 0), expected.image)
            assert np.array_equal(train_ids, encode_labels(torch.from_numpy(expected.ids)))


def test_file_names_are_those_the_judge_parses(tmp_path):
    generate(tmp_path)
    names = set()
    for path in tmp_path.rglob("*.png"):
        info = getCsFileInfo(str(path))
        assert info.city == path.parent.name
        assert len(info.sequenceNb) == len(info.frameNb) == 6
        assert f"{info.type}_{info.type2}".rstrip("_") in ("leftImg8bit", "gtFine_labelIds")
        names.add((info.city, info.sequenceNb, info.frameNb))
    assert len(names) == 6


def test_nothing_but_the_data_set_is_left(tmp_path):
    generate(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["gtFine", "leftImg8bit", "scenes.json"]
    assert len(files(tmp_path)) == 2 * 6 + 1


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        generate(tmp_path / name, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    first = "leftImg8bit/train/trainburg/trainburg_000000_000000_leftImg8bit.png"
    assert files(tmp_path / "a")[first] != files(tmp_path / "c")[first]


def test_a_scene_depends_on_seed_split_and_number_only(tmp_path):
    generate(tmp_path / "few")
    generate(tmp_path / "many", num_train=6, num_val=3)
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    few.pop("scenes.json")
    assert few.items() <= many.items()
    pixels = {
        draw_scene(seed, split, number, size=SIZE, cue=True, panels=False).image.tobytes()
        for seed in (0, 1)
        for split in ("train", "val")
        for number in (0, 1)
    }
    assert len(pixels) == 8


def test_a_finished_set_is_left_alone(tmp_path, monkeypatch):
    generate(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(street_scenes, "draw_scene", None)
    monkeypatch.setattr(scene_writer, "_write", None)
    generate(tmp_path)
    assert files(tmp_path) == before


def test_an_interrupted_set_goes_on(tmp_path, monkeypatch):
    generate(tmp_path / "whole")
    root = tmp_path / "interrupted"
    drawn = []

    def draw_some(seed, split, number, size, cue, panels):
        drawn.append((split, number))
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw_scene(seed, split, number, size=size, cue=cue, panels=panels)

    monkeypatch.setattr(street_scenes, "draw_scene", draw_some)
    with pytest.raises(KeyboardInterrupt):
        generate(root)
    assert not json.loads((root / "scenes.json").read_text())["finished"]
    assert not list(root.glob(".partial-*"))
    with pytest.raises(ValueError, match="root: expected scenes of"):
        generate(root, seed=1)
    generate(root)
    assert drawn[4:] == [("train", 3), ("val", 0), ("val", 1)]
    assert files(root) == files(tmp_path / "whole")


def test_an_image_lost_between_two_calls_is_drawn_again(tmp_path):
    generate(tmp_path)
    whole = files(tmp_path)
    marker = tmp_path / "scenes.json"
    marker.write_text(marker.read_text().replace("true,", "false,", 1))
    next(tmp_path.rglob("valburg_000001*labelIds.png")).unlink()
    generate(tmp_path)
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    "other",
    [
        {"num_train": 5},
        {"num_val": 3},
        {"size": (64, 160)},
        {"seed": 1},
        {"cue": False},
        {"panels": True},
    ],
)
def test_other_parameters_in_the_same_folder(tmp_path, other):
    generate(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"root: expected scenes of .* got"):
        generate(tmp_path, **other)
    assert files(tmp_path) == before


def test_another_data_set_in_the_folder(tmp_path):
    (tmp_path / "gtFine").mkdir()
    with pytest.raises(ValueError, match=r"root: expected a new folder, got .* with gtFine in it"):
        generate(tmp_path)


@pytest.mark.parametrize("size", [(63, 128), (64, 95), (128, 191)])
def test_size_is_too_small(tmp_path, size):
    with pytest.raises(ValueError, match="size: expected at least 64 rows and 96 columns"):
        generate(tmp_path, size=size)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("name", ["num_train", "num_val"])
@pytest.mark.parametrize("count", [-1, 1_000_001])
def test_number_of_scenes_out_of_range(tmp_path, name, count):
    with pytest.raises(ValueError, match=rf"^{name}: expected 0\.\.1000000, got {count}$"):
        generate(tmp_path, **{name: count})


def test_progress_bar(tmp_path, capsys, monkeypatch):
    generate_scenes(tmp_path / "no_terminal", num_train=1, num_val=0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    generate_scenes(tmp_path / "loud", num_train=1, num_val=0)
    assert "scenes" in capsys.readouterr().err
    generate_scenes(tmp_path / "silent", num_train=1, num_val=0, progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("size", [(64, 96), (64, 128), (100, 200), (128, 256)])
def test_objects_stand_on_the_road_far_below_the_strip(size):
    unit = size[0] // 64
    shapes = set()
    for seed in range(40):
        image, ids = draw(seed, size)
        assert image.shape == (*size, 3)
        assert image.dtype == ids.dtype == np.uint8
        assert ids.shape == size
        found = list(objects(ids))
        assert 2 <= len(found) <= 4
        for number, (top, bottom, left, right) in found:
            assert top - (STRIP * unit - 1) > 30 * unit
            assert (ids[top:bottom, left:right] == ids[top, left]).all()
            assert (ids[top - 1, left:right] == 7).all()
            assert bottom <= size[0] - 2 * unit
            tall = bottom - top > right - left
            assert tall == (number in (13, 15))
            shapes.add(tall)
    assert shapes == {True, False}


@pytest.mark.parametrize("size", [(64, 128), (128, 256)])
@pytest.mark.parametrize("texture", [0, 1])
def test_the_strip_is_labelled_by_its_texture_from_side_to_side(size, texture):
    for seed in range(20):
        ids = draw(seed, size, drawn_texture=texture).ids
        assert (ids[: STRIP * size[0] // 64] == STRIP_IDS[texture]).all()
        assert not np.isin(ids[STRIP * size[0] // 64 :], STRIP_IDS).any()


def test_scenes_hold_street_classes_and_ignored_pixels():
    ids = [draw(seed).ids for seed in range(20)]
    for scene in ids:
        assert (scene[-2:] == 1).all()
        assert {0, 1, 7, 8, 11, 13, 21, 23} <= set(np.unique(scene).tolist())
    assert {17, 20, 24} <= set(np.unique(ids).tolist())


def test_textures_differ_clearly_and_have_one_mean_colour():
    for seed in range(20):
        vertical, horizontal = (
            draw(seed, drawn_texture=texture).image[:STRIP].astype(float) for texture in (0, 1)
        )
        assert drawn_texture(vertical) == 0
        assert drawn_texture(horizontal) == 1
        np.testing.assert_allclose(vertical.mean((0, 1)), horizontal.mean((0, 1)), atol=2)
        # The amplitude is three times the noise: only in the mean along the stripes is it clear.
        assert vertical.mean((0, 2)).std() > 20 > 5 > vertical.mean((1, 2)).std()
        assert horizontal.mean((1, 2)).std() > 20 > 5 > horizontal.mean((0, 2)).std()


def test_pixels_do_not_tell_the_classes_but_by_the_strip():
    for seed in range(10):
        first, other = draw(seed, texture=0), draw(seed, texture=1)
        assert np.array_equal(first.image, other.image)
        differs = first.ids != other.ids
        assert np.isin(first.ids[differs], [26, 27]).all()
        assert np.isin(other.ids[differs], [28, 31]).all()
        boxes = [[box for _, box in sorted(objects(scene.ids))] for scene in (first, other)]
        assert boxes[0] == boxes[1]
        assert differs.sum() == np.isin(first.ids, [26, 27]).sum()


def test_the_texture_changes_nothing_below_the_strip():
    for seed in range(10):
        first, other = draw(seed, drawn_texture=0), draw(seed, drawn_texture=1)
        assert np.array_equal(first.ids[STRIP:], other.ids[STRIP:])
        assert np.array_equal(first.image[STRIP:], other.image[STRIP:])
        assert not np.array_equal(first.image[:STRIP], other.image[:STRIP])


def test_cue_tells_the_class_and_the_control_does_not():
    agreement, textures, differ = {True: 0, False: 0}, 0, 0
    count = 200
    for number in range(count):
        pair = {
            cue: draw_scene(0, "train", number, size=SIZE, cue=cue, panels=False)
            for cue in (True, False)
        }
        assert np.array_equal(pair[True].ids[STRIP:], pair[False].ids[STRIP:])
        assert np.array_equal(pair[True].image[STRIP:], pair[False].image[STRIP:])
        differ += not np.array_equal(pair[True].image, pair[False].image)
        for cue, (image, ids) in pair.items():
            under = {OBJECT_CLASSES.index(k) // 2 for k, _ in objects(ids)}
            assert len(under) == 1
            assert (ids[:STRIP] == STRIP_IDS[drawn_texture(image)]).all()
            agreement[cue] += under == {drawn_texture(image)}
        textures += drawn_texture(pair[True].image)
    assert agreement[True] == count
    # Five standard deviations of a fair coin.
    assert abs(agreement[False] - count / 2) < 36
    assert abs(textures - count / 2) < 36
    assert differ == count - agreement[False]


def test_shapes_are_equally_frequent_and_independent_of_the_texture():
    counts = dict.fromkeys(OBJECT_CLASSES, 0)
    for number in range(200):
        for found, _ in objects(
            draw_scene(0, "train", number, size=SIZE, cue=True, panels=False).ids
        ):
            counts[found] += 1
    assert min(counts.values()) > 0.6 * max(counts.values())


@pytest.mark.parametrize("size", [(64, 96), (64, 128), (128, 256)])
def test_each_panel_tells_the_class_of_the_object_below_it(size):
    agreement, count = {True: 0, False: 0}, 50
    for number in range(count):
        for cue in (True, False):
            image, ids = draw_scene(0, "train", number, size=size, cue=cue, panels=True)
            strip = np.split(image[: STRIP * size[0] // 64], 4, axis=1)
            drawn = [drawn_texture(panel, len(panel)) for panel in strip]
            labels = np.split(ids[: STRIP * size[0] // 64], 4, axis=1)
            assert all((a == STRIP_IDS[b]).all() for a, b in zip(labels, drawn, strict=True))
            colours = np.stack([panel.mean((0, 1)) for panel in strip])
            found = sorted(objects(ids), key=lambda item: item[1][2])
            for panel, (number_, (top, _, left, right)) in enumerate(found):
                assert panel * size[1] // 4 < left < right < (panel + 1) * size[1] // 4
                distance = np.linalg.norm(colours - image[top, left:right].mean(0), axis=1)
                assert distance.argmin() == panel
                agreement[cue] += OBJECT_CLASSES.index(number_) // 2 == drawn[panel]
            # As a whole, the strip says nothing.
            assert sorted(drawn) == [0, 0, 1, 1]
    assert agreement[True] == 4 * count
    # Six standard deviations of fair coins.
    assert abs(agreement[False] - 2 * count) < 6 * (4 * count) ** 0.5 / 2


def test_the_control_of_panels_differs_in_the_strip_alone():
    for number in range(10):
        scene, control = (
            draw_scene(0, "val", number, size=SIZE, cue=cue, panels=True) for cue in (True, False)
        )
        assert np.array_equal(scene.ids[STRIP:], control.ids[STRIP:])
        assert np.array_equal(scene.image[STRIP:], control.image[STRIP:])


def test_files_hold_the_bits_of_the_scene(tmp_path):
    generate(tmp_path, num_train=1, num_val=0, cue=False, seed=5)
    image, ids = draw_scene(5, "train", 0, size=SIZE, cue=False, panels=False)
    (image_path,) = tmp_path.glob("leftImg8bit/train/*/*.png")
    (label_path,) = tmp_path.glob("gtFine/train/*/*.png")
    assert np.array_equal(np.asarray(Image.open(image_path)), image)
    assert np.array_equal(np.asarray(Image.open(label_path)), ids)
