"""The command line for segmenters, on small generated data in the formats of the data sets."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from small_runs import TINY_SEGMENTER as TINY
from small_runs import scores

from dyngraph.cli import main
from dyngraph.config import read_config
from dyngraph.data import DATASETS, GENERATORS

ROOT = Path(__file__).parents[2]
# About loaders without workers, logs of few steps and callbacks that watch nothing.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A generated set of each kind, by name."""
    folder = tmp_path_factory.mktemp("data")
    for name, generate in GENERATORS.items():
        generate(folder / name, num_train=2, num_val=2, progress=False)
    return folder


def settings(arguments, capsys):
    """What ``--print_config`` shows."""
    with pytest.raises(SystemExit):
        main(["fit", *arguments, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_later_arguments_replace_earlier_ones(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        "network: {backbone: small_trunk}\nmodel: {lr: 0.5}\ntrainer: {max_steps: 3}\nseed: 4\n"
    )
    arguments = ["--config", str(config), "--model.lr=0.25", "--trainer.max_steps", "7"]
    found = settings(arguments, capsys)
    assert (found["model"]["lr"], found["trainer"]["max_steps"], found["seed"]) == (0.25, 7, 4)


def test_train_score_and_predict(data, tmp_path, capsys, pictures):
    """The way of a new user with a folder of their own images and masks."""
    run = [f"--data.root={data / 'folder'}", "--data.dataset=folder", *TINY]
    run += [f"--trainer.folder={tmp_path / 'run'}"]
    main(["fit", *run])
    assert pictures(tmp_path / "run") == {"segmentation", "nodes"}
    pages = sorted(path.stem for path in (tmp_path / "run/viewer").iterdir())
    assert pages == sorted(path.stem for path in (data / "folder/images/val").iterdir())
    fitted = capsys.readouterr().out
    config = f"--config={tmp_path / 'run/config.yaml'}"
    main(["validate", config])
    assert capsys.readouterr().out == fitted
    images = data / "folder/images/val"
    # Of the data set, the names of the classes alone.
    classes = tmp_path / "elsewhere/classes.txt"
    classes.parent.mkdir()
    classes.write_text((data / "folder/classes.txt").read_text())
    predict = [config, f"--data.root={classes.parent}", f"--images={images}"]
    main(["predict", *predict, f"--out={tmp_path / 'out'}"])
    for folder in ("labels", "overlays"):
        written = sorted(path.stem for path in (tmp_path / "out" / folder).iterdir())
        assert written == sorted(path.stem for path in images.iterdir())
        for path in (tmp_path / "out" / folder).iterdir():
            with Image.open(path) as image:
                assert image.size[0] > 0


@pytest.mark.slow
def test_what_the_server_of_cityscapes_takes(data, tmp_path, capsys):
    """Test images in Cityscapes' own folders; its own code finds and reads the files."""
    judge = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    root, out = tmp_path / "cityscapes", tmp_path / "out"
    names = ["berlin_000000_000019", "bielefeld_000000_021221", "bielefeld_000000_021341"]
    pictures = sorted((data / "cityscapes/leftImg8bit").rglob("*.png"))
    for name, picture in zip(names, pictures, strict=False):
        folder = root / "leftImg8bit/test" / name.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / f"{name}_leftImg8bit.png")
    run = [f"--data.root={data / 'cityscapes'}", *TINY, f"--trainer.folder={tmp_path / 'run'}"]
    main(["fit", *run, "--data.train_split=trainval"])
    # Neither images nor labels of the other splits.
    predict = ["predict", f"--config={tmp_path / 'run/config.yaml'}", f"--data.root={root}"]
    predict += [f"--images={root / 'leftImg8bit/test'}", f"--out={out}", "--label_ids=true"]
    main(predict)
    files = {path: path.read_bytes() for path in out.rglob("*.png")}
    assert len(files) == 3 * len(names)
    for name in names:
        truth = f"{root}/gtFine/test/{name.partition('_')[0]}/{name}_gtFine_labelIds.png"
        args = SimpleNamespace(predictionPath=str(out / "label_ids"), predictionWalk=None)
        found = Path(judge.getPrediction(args, truth))
        assert found == out / f"label_ids/{name}_pred_labelIds.png"
        city = name.partition("_")[0]
        with (
            Image.open(found) as ids,
            Image.open(out / f"labels/{city}/{name}_leftImg8bit.png") as classes,
            Image.open(root / f"leftImg8bit/test/{city}/{name}_leftImg8bit.png") as picture,
        ):
            assert ids.mode == "L"
            assert ids.size == classes.size == picture.size
            to_id = np.vectorize(lambda train_id: helpers.trainId2label[train_id].id)
            assert np.array_equal(np.asarray(ids), to_id(np.asarray(classes)))
    # An interrupted run goes on.
    (out / f"label_ids/{names[1]}_pred_labelIds.png").unlink()
    main(predict)
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == files
    with pytest.raises(SystemExit):
        main([*predict, "--data.dataset=ade20k"])
    assert "label_ids: expected classes of cityscapes, got ade20k" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_training_on_all_images_at_one_of_several_scales(name, data, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text("data: {scales: [0.75, 1, 1.25, 1.5, 1.75, 2], train_split: trainval}\n")
    run = [f"--config={config}", f"--data.root={data / name}", f"--data.dataset={name}", *TINY]
    main(["fit", *run, f"--trainer.folder={tmp_path / 'run'}"])
    assert 0 <= float(scores(capsys)["pixel_accuracy"]) <= 1
    saved = read_config(tmp_path / "run/config.yaml")["data"]
    assert saved["scales"] == [0.75, 1, 1.25, 1.5, 1.75, 2]
    assert (saved["scale"], saved["train_split"]) == (None, "trainval")
    # What the command line says wins over a file.
    other = ["--data.scales=[0.75, 1.0]", "--data.train_split=train"]
    found = settings([*run, *other], capsys)["data"]
    assert (found["scales"], found["train_split"]) == ([0.75, 1.0], "train")


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_the_judge_agrees_with_validation(name, data, tmp_path, capsys):
    """On the files that were written, for Cityscapes the official one."""
    run = [f"--data.root={data / name}", f"--data.dataset={name}", *TINY]
    run += [f"--trainer.folder={tmp_path / 'run'}", "--trainer.limit_val_batches=1.0"]
    main(["fit", *run])
    fitted = scores(capsys)
    main(["test", f"--config={tmp_path / 'run/config.yaml'}", f"--out={tmp_path / 'out'}"])
    judged = scores(capsys)
    mean = judged.pop("mean" if name == "cityscapes" else "miou")
    assert mean == fitted["miou"]
    assert judged["pixel_accuracy"] == fitted["pixel_accuracy"]
    for label in DATASETS[name](data / name, "val").class_names:
        assert judged[label] == fitted[f"iou/{label}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config"], "--config: expected the path of a YAML file"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--model.lr=fast"], "model.lr"),
        (["--model.rate=1"], "model.rate"),
        (["--data.train_split=test"], "data.train_split"),
        (["--data.scales=many"], "data.scales"),
        (["--task=depth"], "--task: expected one of ('segmentation', 'detection'), got 'depth'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--network.backbone=small_trunk", "--trainer.max_steps=1", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_wrong_checkpoints_are_named(data, tmp_path):
    run = [f"--data.root={data / 'cityscapes'}", *TINY, f"--trainer.folder={tmp_path}"]
    checkpoint = tmp_path / "last.ckpt"
    validate = ["validate", "--traceback", *run]
    with pytest.raises(OSError, match=f"^{checkpoint}: expected a readable checkpoint"):
        main(validate)
    main(["fit", *run])
    with pytest.raises(ValueError, match=f"^{checkpoint}: expected the weights of this arch"):
        main([*validate, "--network.head_channels=4"])
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(OSError, match=f"^{checkpoint}: expected a readable checkpoint"):
        main(validate)
