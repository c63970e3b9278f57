import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from scripts import run_script

from dyngraph.data import CamVidSegmentation, generate_camvid
from dyngraph.models import DGMN2, dgmn2_tiny

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for folder in ("examples", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if any(call in path.read_text(encoding="utf-8") for call in ("parse_args(", "run(__doc__"))
]


def test_there_are_scripts():
    assert {"train_cityscapes.py", "ops.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    assert run_script(path, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {path.name} ")
    # Asking for help does nothing else.
    assert not any(tmp_path.iterdir())


# In a process of its own, where nothing has been imported yet, but on few images.
SMALL_DEMO = f"""
import sys
from functools import partial
sys.path.insert(0, {str(ROOT / "examples")!r})
import demo
demo.generate_scenes = partial(demo.generate_scenes, num_train=8, num_val=2)
demo.main()
demo.main()
"""


@pytest.mark.slow
def test_the_demo(tmp_path):
    """With two iterations for each network; started again, it prints the same table."""
    command = [sys.executable, "-c", SMALL_DEMO, "--steps", "2", "--out", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 14
    assert table[:7] == table[7:]
    pictures = {path.suffix for path in tmp_path.iterdir() if path.is_file()}
    assert ".png" in pictures
    assert result.stdout.splitlines()[-1] == f"  {tmp_path / 'viewer.html'}"
    assert (tmp_path / "viewer.html").stat().st_size > 100_000


@pytest.mark.slow
def test_far_classes(tmp_path, monkeypatch, capsys):
    """The detectors of ``train_coco.py``, with one iteration; the benchmark has their scores."""

    def run_here(command, *, check):
        program, *arguments = command
        assert (program, check) == (sys.executable, True)
        assert run_script(*arguments) == 0

    monkeypatch.setattr(subprocess, "run", run_here)
    arguments = ["--out", tmp_path, "--steps", 1, "--seeds", 3, "--contexts", "baseline", "dgmn"]
    tables = []
    for _ in range(2):
        assert run_script(ROOT / "benchmarks/far_classes.py", *arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        tables.append([line for line in lines if line.startswith("|")])
    assert tables[0] == tables[1]
    names = [line.split("|")[1].strip() for line in tables[0]]
    assert names == ["detector", "---", "baseline", "dgmn"] * 2


@pytest.mark.filterwarnings("ignore:::lightning")
def test_a_segmenter_is_trained_on_camvid(tmp_path, capsys):
    generate_camvid(tmp_path / "data", num_train=2, num_val=2, progress=False)
    arguments = ["--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 0]
    arguments += ["--backbone", "timm/mobilenetv3_small_050", "--steps", 1, "--batch-size", 2]
    assert run_script(ROOT / "examples/train_camvid.py", *arguments) == 0
    names = [line[:20].strip() for line in capsys.readouterr().out.splitlines()]
    assert {"miou", *(f"iou/{name}" for name in CamVidSegmentation.class_names)} <= {*names}
    assert (tmp_path / "out" / "last.ckpt").exists()


def test_a_released_file_is_converted(tmp_path, capsys):
    model = dgmn2_tiny(features_only=True)
    weights = {f"backbone.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"state_dict": weights | {"neck.weight": torch.ones(2)}}, tmp_path / "coco.pth")
    arguments = ("--model", "dgmn2_tiny", "--features-only", "--out", tmp_path / "out")
    assert run_script(ROOT / "examples/convert_dgmn2.py", tmp_path / "coco.pth", *arguments) == 0
    out = capsys.readouterr().out
    assert f"{len(weights)} tensors loaded" in out
    assert "1 tensors unused in the file: neck.weight" in out
    loaded = DGMN2.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], w) for name, w in model.state_dict().items())


def test_a_classifier_is_trained_on_a_folder_of_images(tmp_path, capsys):
    for split in ("train", "val"):
        for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 50), colour).save(folder / f"{number}.png")
    torch.save({"model": dgmn2_tiny().state_dict()}, tmp_path / "released.pth")
    arguments = ["--data", tmp_path, "--size", "32", "--epochs", "1", "--batch-size", "2"]
    arguments += ["--workers", "0", "--out", tmp_path / "out"]
    arguments += ["--checkpoint", tmp_path / "released.pth"]
    assert run_script(ROOT / "examples/classify.py", *arguments) == 0
    out = capsys.readouterr().out
    assert "0 tensors kept by the model" in out
    assert "epoch 1: loss " in out
    assert (tmp_path / "out" / "model.safetensors").exists()
