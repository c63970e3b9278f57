"""Images that cannot be read, among others that can: predict goes on, and says so."""

import json
import shutil
import sys

import pytest
from small_runs import TINY_DETECTOR, TINY_SEGMENTER

from dyngraph.cli import main
from dyngraph.data import generate_coco

# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    generate_coco(folder, num_train=4, num_val=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def trained(coco, tmp_path_factory):
    """A checkpoint of each kind of network, by name."""
    folder = tmp_path_factory.mktemp("trained")
    runs = {
        "segmentation": [*TINY_SEGMENTER, "--data.root=generated", "--data.dataset=folder"],
        "detection": [*TINY_DETECTOR, f"--data.root={coco}"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, arguments in runs.items():
            run = [f"--trainer.folder={folder / name}", "--trainer.max_steps=1"]
            main(["fit", *arguments, *run])
    return {name: folder / name / "last.ckpt" for name in runs}


@pytest.fixture
def images(coco, tmp_path):
    """Four images, of which the first and the third are broken."""
    folder = shutil.copytree(coco / "train2017", tmp_path / "images")
    paths = sorted(folder.iterdir())
    paths[0].write_bytes(b"no image")
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    return paths


def predict(checkpoint, images, *arguments):
    main(["predict", f"--checkpoint={checkpoint}", f"--images={images[0].parent}",
          "--trainer.accelerator=cpu", *arguments])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind"), [("segmentation", "labels/*.png"), ("detection", "detections/*.json")]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_the_others_are_predicted(
    trained, images, tmp_path, task, kind, terminal, capsys, monkeypatch
):
    out = tmp_path / "out"
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with pytest.raises(SystemExit) as stop:
        predict(trained[task], images, f"--out={out}")
    assert stop.value.code == 1
    assert sorted(path.stem for path in out.glob(kind)) == [images[1].stem, images[3].stem]
    output, errors = capsys.readouterr()
    assert output == ""
    # A progress bar is drawn again after carriage returns, and stays apart from the lines.
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip()]
    first, second, last = (line for line in lines if line.startswith("dyngraph: "))
    assert first.startswith(f"dyngraph: skipped: {images[0]}: expected a readable PNG or JPEG")
    assert second.startswith(f"dyngraph: skipped: {images[2]}: expected a readable PNG or JPEG")
    assert last == "dyngraph: 2 of 4 images could not be read"
    bars = [line for line in lines if not line.startswith("dyngraph: ")]
    assert bool(bars) == terminal
    assert all("image/s" in bar or "/4 [" in bar for bar in bars)
    for path in (images[0], images[2]):
        shutil.copy(images[1], path)
    predict(trained[task], images, f"--out={out}")
    assert len([*out.glob(kind)]) == 4
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_strict_ends_at_the_first(trained, images, tmp_path, task, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        predict(trained[task], images, f"--out={tmp_path / 'out'}", "--strict")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{images[0]}: expected a readable PNG or JPEG image" in line
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_no_results_for_the_evaluation_server(coco, trained, images, tmp_path, capsys):
    info = coco / "annotations/instances_train2017.json"
    arguments = [f"--out={tmp_path / 'out'}", f"--image_info={info}"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        predict(trained["detection"], images, *arguments)
    assert stop.value.code == 2
    first, second, last = capsys.readouterr().err.splitlines()
    assert f"skipped: {images[0]}: " in first
    assert f"skipped: {images[2]}: " in second
    assert "dyngraph_results.json: not written: expected all 4 images" in last
    assert not [*(tmp_path / "out").glob("*results.json")]
    ids = {image["file_name"]: image["id"] for image in json.loads(info.read_text())["images"]}
    done = {int(path.stem) for path in (tmp_path / "out/results").iterdir()}
    assert done == {ids[images[1].name], ids[images[3].name]}
