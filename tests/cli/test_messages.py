"""What a user sees who makes a mistake, and who makes none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dyngraph.cli import main
from dyngraph.data import generate_folder

ROOT = Path(__file__).parents[2]
TINY = [
    "--data.dataset=folder",
    "--data.crop_size=32",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--network.backbone=small_trunk",
    "--network.head_channels=8",
    "--trainer.max_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.sync_batchnorm=false",
]


@pytest.fixture
def root(tmp_path):
    generate_folder(tmp_path / "set", num_train=2, num_val=2, progress=False)
    return tmp_path / "set"


def mistake(arguments, capsys):
    """The one line that ``arguments`` end in."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_no_command_shows_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: dyngraph")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "required: --network.backbone, --trainer.max_steps"),
        (["fit", *TINY, "--data.crop_size=big"], "--data.crop_size: expected int"),
        (["fit", *TINY, "--data.scales=many"], "--data.scales: expected list[float], null, got m"),
        (["fit", *TINY, "--data.train_split=x"], "expected one of 'train', 'trainval', got x"),
        (["fit", *TINY, "--data.root=nowhere"], "nowhere"),
        (["fit", *TINY, "--network.backbone=FOO"], "backbone: expected one of"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert message in mistake(arguments, capsys)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--data.max_pixels=100",
            "000000.png: expected a readable PNG or JPEG image of at most 100",
        ),
        ("--data.val_batch_size=2", "val_batch_size: expected 1 for validation images of differen"),
        ("--network.head_channels=0", "head_channels: expected at least 1, got 0"),
        ("--trainer.checkpoint_every=0", "checkpoint_every: expected at least 1, got 0"),
        ("--trainer.max_steps=0", "max_steps: expected at least 1, got 0"),
        ("--trainer.limit_train_batches=0", "limit_train_batches: expected a positive number"),
        ("--seed=-1", "seed: expected at least 0, got -1"),
    ],
)
def test_mistakes_before_the_first_step(root, tmp_path, argument, message, capsys):
    run = [*TINY, f"--data.root={root}", f"--trainer.folder={tmp_path / 'run'}"]
    assert message in mistake(["fit", *run, argument], capsys)
    assert not list(tmp_path.glob("run/csv*"))


def test_labels_are_checked_at_will(root, tmp_path, capsys):
    mask = max((root / "masks/val").iterdir())
    with Image.open(mask) as stored:
        Image.new("L", stored.size, 77).save(mask)
    run = [*TINY, f"--data.root={root}", f"--trainer.folder={tmp_path / 'run'}"]
    for check in ("null", "true"):
        assert f"{mask}: values: expected" in mistake(
            ["fit", *run, f"--data.check={check}"], capsys
        )
        assert not (tmp_path / "run/last.ckpt").exists()
    # Without, training comes first.
    assert f"{mask}: values: expected" in mistake(["fit", *run, "--data.check=false"], capsys)
    assert (tmp_path / "run/last.ckpt").exists()


def test_mistakes_in_files(root, tmp_path, capsys):
    run = [*TINY, f"--data.root={root}", f"--trainer.folder={tmp_path / 'run'}"]
    resnet = [*run, "--network.backbone=resnet18", "--network.weights_backbone=FOO"]
    assert "weights_backbone: expected None or one of ('DEFAULT'" in mistake(
        ["fit", *resnet], capsys
    )
    junk = tmp_path / "junk.ckpt"
    for content in (b"junk", b"\x80\x02}q\x00."):
        junk.write_bytes(content)
        line = mistake(["validate", *run, f"--checkpoint={junk}"], capsys)
        assert f"{junk}: expected a readable checkpoint, got a file" in line
    torch.save({"state_dict": os.getcwd}, junk)
    assert "weights_only" not in mistake(["validate", *run, f"--checkpoint={junk}"], capsys)
    mask = next((root / "masks/val").iterdir())
    mask.unlink()
    assert str(mask) in mistake(["fit", *run], capsys)


@pytest.mark.slow
def test_folders_and_files_are_told_apart(root, tmp_path, capsys):
    run = [*TINY, f"--data.root={root}", f"--trainer.folder={tmp_path / 'run'}"]
    main(["fit", *run, "--network.context=none"])
    capsys.readouterr()
    assert "run/last.ckpt exists" in mistake(["fit", *run], capsys)
    image = next((root / "images/val").iterdir())
    predict = ["predict", *run, f"--images={image}", f"--out={tmp_path / 'out'}"]
    assert f"images: expected a folder, got the file {image}" in mistake(predict, capsys)
    images = f"--images={root / 'images/val'}"
    assert "classes.txt" in mistake([*predict, images, f"--out={root / 'classes.txt'}"], capsys)
    (tmp_path / "empty").mkdir()
    assert "got none" in mistake([*predict, f"--images={tmp_path / 'empty'}"], capsys)


@pytest.mark.parametrize("place", [0, 1, -1])
def test_the_traceback_is_there_for_the_asking(place):
    arguments = ["fit", *TINY, "--data.root=nowhere"]
    arguments.insert(place if place >= 0 else len(arguments), "--traceback")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(arguments)


@pytest.mark.slow
def test_only_our_own_messages(root, tmp_path):
    """In a process of its own, where nothing has been imported yet; it has no terminal."""

    def run(*arguments):
        code = "from dyngraph.cli import main; main()"
        settings = [*TINY, f"--data.root={root}", f"--trainer.folder={tmp_path / 'run'}"]
        command = [sys.executable, "-c", code, *arguments, *settings]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True)

    fitted = run("fit")
    assert fitted.stderr == ""
    assert all(len(line.split()) == 2 for line in fitted.stdout.splitlines())
    predicted = run("predict", f"--images={root / 'images/val'}", f"--out={tmp_path / 'out'}")
    assert predicted.stdout == predicted.stderr == ""
