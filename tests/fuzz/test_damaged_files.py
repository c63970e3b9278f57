"""Damaged files: each is read, or refused by an error that names it, soon and in little memory."""

import copy
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutations, peak_growth, ten_seconds
from PIL import Image
from torch import nn

from dyngraph.cli.checkpoint_settings import checkpoint_settings
from dyngraph.config import read_config
from dyngraph.data import (
    CocoDetection,
    FolderSegmentation,
    eval_transform,
    generate_coco,
    generate_folder,
)
from dyngraph.data.coco_json import read_image_info
from dyngraph.data.files import read_rgb
from dyngraph.evaluate.coco import detections_to_coco, read_detections, write_detections
from dyngraph.models import DGMN2, load_official
from dyngraph.models.safetensors_files import load_safetensors, save_safetensors
from dyngraph.train import load_weights, read_checkpoint
from dyngraph.train.checkpoint import CheckpointFiles
from dyngraph.train.log import read_log
from dyngraph.train.record import read_record

SETTINGS = settings.get_profile("fuzz")

#: What the allocator keeps and takes at times, in bytes.
NOISE = 8_000_000

#: What the command line records of a run, of either kind of network.
RECORD = {
    "settings": {
        "task": "segmentation",
        "seed": 0,
        "data": {"root": "here"},
        "model": {},
        "network": {"backbone": "small_trunk", "context": "dgmn"},
        "trainer": {"max_steps": 4},
    },
    "classes": {
        "names": ["a"],
        "palette": [[0, 1, 2]],
        "ids": [3],
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    },
}

SMALL = DGMN2((1, 1, 1, 1), (8, 8, 8, 8), heads=(1, 1, 1, 1))


def segmentation(path):
    """The sets of one's own that a file is part of: the first item of each."""
    root = next(parent for parent in path.parents if (parent / "images").is_dir())
    return FolderSegmentation(root, "train")[0]


def coco(path):
    dataset = CocoDetection(path.parents[1], "train")
    return [dataset[number] for number in range(len(dataset))]


def checkpoint(path):
    load_weights(nn.Linear(40, 50), path)
    read_record(read_checkpoint(path), path)
    return checkpoint_settings(path)


def official(path):
    return load_official(SMALL, path)


def safetensors(path):
    return load_safetensors(nn.Linear(40, 50), path)


def hub(path):
    return DGMN2.from_pretrained(path.parent)


def log(path):
    return read_log(path.parents[1])


READERS = {
    "set/images/train/000000.png": segmentation,
    "set/masks/train/000000.png": segmentation,
    "set/classes.txt": segmentation,
    "large.png": read_rgb,
    "large.jpg": read_rgb,
    "coco/annotations/instances_train2017.json": coco,
    "image_info.json": read_image_info,
    "detections.json": read_detections,
    "run/csv/metrics.csv": log,
    "base.yaml": lambda path: read_config(path.with_name("child.yaml")),
    "child.yaml": read_config,
    "last.ckpt": checkpoint,
    "other.ckpt": checkpoint,
    "weights.safetensors": safetensors,
    "official.pth": official,
    "hub/config.json": hub,
    "hub/model.safetensors": hub,
}
"""What reads each file of :func:`files`."""


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    generate_folder(folder / "set", num_train=1, num_val=1, progress=False)
    generate_coco(folder / "coco", num_train=2, num_val=1, progress=False)
    shutil.copy(folder / "coco/annotations/instances_train2017.json", folder / "image_info.json")
    detected = {
        "boxes": torch.tensor([[1.0, 2.0, 9.0, 8.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.5]),
        "masks": torch.rand(1, 1, 16, 16),
    }
    write_detections(folder / "detections.json", detections_to_coco(7, detected, [3]))
    pixels = torch.rand(3, 60, 80)[None]
    pixels = (255 * nn.functional.interpolate(pixels, (900, 1200), mode="bilinear")[0]).byte()
    for name in ("large.png", "large.jpg"):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / name)
    (folder / "run/csv").mkdir(parents=True)
    rows = "".join(f"{0.1 * step},{step}\n" for step in range(1, 50))
    (folder / "run/csv/metrics.csv").write_text(f"loss,step\n{rows}")
    base = "seed: 1\ndata: &data\n  root: here\n  crop_size: [32, 48]\nval: *data\n"
    (folder / "base.yaml").write_text(base)
    child = "inherit: base.yaml\nmodel:\n  lr: 1.0e-2\n  decay_steps: [1, 2]\n"
    (folder / "child.yaml").write_text(child)
    content = {"state_dict": nn.Linear(40, 50).state_dict(), "global_step": 4, "record": RECORD}
    CheckpointFiles().save_checkpoint(content, folder / "last.ckpt")
    # Without a digest, as an earlier version wrote them: damage is not found so easily.
    torch.save(content, folder / "other.ckpt")
    save_safetensors(nn.Linear(40, 50), folder / "weights.safetensors")
    torch.save({"model": SMALL.state_dict()}, folder / "official.pth")
    SMALL.save_pretrained(folder / "hub")
    return folder


@pytest.fixture(scope="session")
def memory(files):
    """The peak of reading each good file, in bytes, once all is imported that is needed."""

    def peak(name):
        READERS[name](files / name)
        return max(peak_growth(lambda: READERS[name](files / name)) for _ in range(3))

    return {name: peak(name) for name in READERS}


@pytest.mark.parametrize("name", READERS)
@SETTINGS
@given(mutations())
def test_a_damaged_file_is_read_or_named(files, memory, name, mutate):
    path = files / name
    good = path.read_bytes()

    messages = []

    def read():
        try:
            READERS[name](path)
        except (OSError, ValueError) as error:
            messages.append(str(error))

    path.write_bytes(mutate(good))
    try:
        with ten_seconds():
            growth = peak_growth(read)
    finally:
        path.write_bytes(good)
    # Of a set, the file that does not fit to the damaged one may be named.
    assert all(str(files / name.partition("/")[0]) in message for message in messages)
    assert growth <= 2 * memory[name] + NOISE


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-300, 300), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def damaged(draw, value):
    """A container with another value, or none, in the place of one of those in it."""
    keys = [*value] if isinstance(value, dict) else [*range(len(value))]
    key = draw(st.sampled_from(keys))
    changed = copy.copy(value)
    if isinstance(value[key], (dict, list)) and value[key] and draw(st.integers(0, 3)):
        changed[key] = draw(damaged(value[key]))
    elif draw(st.booleans()):
        changed[key] = draw(VALUES)
    else:
        del changed[key]
    return changed


@SETTINGS
@given(damaged(RECORD))
def test_a_record_is_whole_or_its_checkpoint_named(files, record):
    path = files / "record.ckpt"
    torch.save({"state_dict": {}, "global_step": 1, "record": record}, path)
    try:
        checkpoint_settings(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(str(path))
        return
    classes = read_record(read_checkpoint(path), path)["classes"]
    # What predictions take from it.
    torch.tensor(classes["palette"], dtype=torch.uint8)
    eval_transform(**classes.get("normalization", {}))(torch.zeros(3, 4, 5, dtype=torch.uint8))
    dict(zip(classes.get("ids", classes["names"]), classes["names"], strict=True))
