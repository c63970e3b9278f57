"""What the commands know from a checkpoint."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from dyngraph.cli import main
from dyngraph.cli.checkpoint_settings import checkpoint_settings
from dyngraph.data import generate_coco, generate_folder

# About loaders without workers, logs of few steps and callbacks that watch nothing.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

TRAINER = [
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
SEGMENTER = [
    *TRAINER,
    "--data.dataset=folder",
    "--data.crop_size=[32,32]",
    "--network.backbone=small_trunk",
    "--network.head_channels=8",
    "--network.context=dgmn",
    "--model.inference.window=[32,32]",
]
DETECTOR = [
    *TRAINER,
    "--task=detection",
    "--network.backbone=resnet10",
    "--network.min_size=32",
    "--network.max_size=64",
    "--network.pyramid_channels=8",
    "--network.box_score_thresh=0.0",
    "--network.box_detections_per_img=3",
]


def arguments(root, folder, steps=1, kind=SEGMENTER):
    return [*kind, f"--data.root={root}", f"--trainer.folder={folder}",
            f"--trainer.max_steps={steps}"]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    generate_folder(tmp_path / "data", num_train=2, num_val=2, progress=False)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set and the run of a segmenter on it, next to each other."""
    folder = tmp_path_factory.mktemp("trained")
    generate_folder(folder / "data", num_train=2, num_val=2, progress=False)
    main(["fit", *arguments(folder / "data", folder / "run")])
    return folder


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def load(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_resuming_to_train_longer(root, tmp_path):
    run = tmp_path / "run"
    main(["fit", *arguments(root, run, steps=2), "--model.lr=0.1"])
    before = load(run)["state_dict"]
    main(["fit", *arguments(root, run, steps=4), "--model.lr=0.2", "--trainer.resume=true"])
    checkpoint = load(run)
    assert checkpoint["global_step"] == 4
    assert checkpoint["record"]["settings"]["model"]["lr"] == 0.2
    weight = "model.classifier.0.0.weight"
    assert not torch.equal(before[weight], checkpoint["state_dict"][weight])
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("--seed=3", "seed: expected 0, as the run was started with, got 3"),
        ("--data.batch_size=1", "data.batch_size: expected 2, as the run was started with, got 1"),
        ("--data.crop_size=[32,48]", "data.crop_size: expected [32, 32], as the run was started"),
        ("--model.optimizer=adamw", "model.optimizer: expected 'sgd', as the run was started"),
        ("--network.context=repgraph", "network.context: expected 'dgmn', as the run was started"),
    ],
)
def test_settings_that_have_to_stay(trained, other, message):
    run = arguments(trained / "data", trained / "run")
    before = (trained / "run/last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=re.escape(f"last.ckpt: {message}")):
        main(["--traceback", "fit", *run, "--trainer.max_steps=2", "--trainer.resume=true", other])
    assert (trained / "run/last.ckpt").read_bytes() == before


@pytest.mark.slow
def test_classes_of_the_data_are_those_of_the_network(root, tmp_path):
    run = arguments(root, tmp_path / "run")
    main(["fit", *run])
    path = root / "classes.txt"
    first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([second, first, *others]))
    message = f"classes, names, 0: expected {first!r}, as the network was trained for, got "
    for command in (["validate"], ["test", f"--out={tmp_path / 'out'}"]):
        with pytest.raises(ValueError, match=re.escape(message + repr(second))):
            main(["--traceback", *command, *run])
    with pytest.raises(ValueError, match=re.escape(message + repr(second))):
        main(["--traceback", "fit", *run, "--trainer.resume=true"])


def test_a_segmenter_predicts_from_its_checkpoint_alone(root, tmp_path):
    run, images = tmp_path / "run", tmp_path / "images"
    main(["fit", *arguments(root, run)])
    shutil.copytree(root / "images/val", images)
    predict = ["predict", f"--images={images}"]
    main([*predict, f"--config={run / 'config.yaml'}", f"--out={tmp_path / 'known'}"])
    checkpoint = shutil.copy(run / "last.ckpt", tmp_path / "alone.ckpt")
    shutil.rmtree(run)
    shutil.rmtree(root)
    main([*predict, "--checkpoint", str(checkpoint), f"--out={tmp_path / 'alone'}"])
    assert content(tmp_path / "alone") == content(tmp_path / "known")
    assert len(content(tmp_path / "alone")) == 3 * len(list(images.iterdir()))


@pytest.mark.slow
def test_a_detector_predicts_from_its_checkpoint_alone(tmp_path):
    root, run, images = tmp_path / "coco", tmp_path / "run", tmp_path / "images"
    generate_coco(root, num_train=2, num_val=1, progress=False)
    main(["fit", *arguments(root, run, kind=DETECTOR)])
    shutil.copytree(root / "val2017", images)
    predict = ["predict", f"--images={images}"]
    main([*predict, f"--config={run / 'config.yaml'}", f"--out={tmp_path / 'known'}"])
    checkpoint = shutil.copy(run / "last.ckpt", tmp_path / "alone.ckpt")
    shutil.rmtree(run)
    shutil.rmtree(root)
    main([*predict, f"--checkpoint={checkpoint}", f"--out={tmp_path / 'alone'}"])
    assert content(tmp_path / "alone") == content(tmp_path / "known")
    (path,) = (tmp_path / "alone/detections").iterdir()
    assert json.loads(path.read_text())


def settings(network, model=None):
    return {
        "task": "segmentation",
        "seed": 0,
        "data": {"root": "nowhere"},
        "model": model or {},
        "network": {"backbone": "small_trunk", "weights_backbone": None} | network,
        "trainer": {"max_steps": 1, "callbacks": [{"class_path": "os.system"}]},
    }


def save(path, settings):
    record = {"settings": settings, "classes": {"names": [], "palette": []}}
    torch.save({"state_dict": {}, "global_step": 1, "record": record}, path)
    return path


def test_weights_to_start_from_are_not_asked_for(tmp_path):
    path = tmp_path / "a.ckpt"
    for network, expected in (
        (
            {"backbone": "resnet18", "weights_backbone": "DEFAULT"},
            {"backbone": "resnet18", "weights_backbone": None},
        ),
        (
            {"backbone": "resnet18", "weights_backbone": "DEFAULT", "freeze": None},
            {"backbone": "resnet18", "weights_backbone": None, "freeze": True},
        ),
        (
            {"backbone": "dgmn2_tiny", "weights_backbone": "a.pth", "freeze": None},
            {"backbone": "dgmn2_tiny", "weights_backbone": None, "freeze": None},
        ),
        (
            {"backbone": {"class_path": "dyngraph.models.DilatedResNet",
                          "init_args": {"name": "resnet18", "weights": "DEFAULT"}}},
            {"backbone": {"class_path": "dyngraph.models.DilatedResNet",
                          "init_args": {"name": "resnet18", "weights": None}},
             "weights_backbone": None},
        ),
    ):  # fmt: skip
        found = checkpoint_settings(save(path, settings(network)))
        assert found["network"] == expected
        assert found["trainer"] == {"max_steps": 1}


@pytest.mark.parametrize(
    "network",
    [
        {"context": {"class_path": "os.system"}},
        {"context": "os.system"},
        {"insert_before": {"layer1": "subprocess.run"}},
        {"context": {"class_path": "dyngraph.nn.os.system"}},
        {"backbone": {"class_path": "dyngraph.data.files.os.system"}},
        {"context": {"class_path": "dyngraph.nn.DGMNBlock", "init_args": {"norm": "os.abort"}}},
    ],
)
def test_a_checkpoint_names_no_other_code(tmp_path, network, capsys):
    path = save(tmp_path / "a.ckpt", settings(network))
    with pytest.raises(
        ValueError, match=rf"^{path}: settings, network: expected only classes of dyng"
    ):
        checkpoint_settings(path)
    with pytest.raises(SystemExit) as stop:
        main(["predict", f"--checkpoint={path}", f"--images={tmp_path}", "--out=nowhere"])
    assert stop.value.code == 2
    assert "expected only classes of dyngraph" in capsys.readouterr().err


def test_broken_settings_are_named(tmp_path):
    path = save(tmp_path / "a.ckpt", {"task": "segmentation"})
    with pytest.raises(ValueError, match=rf"^{path}: expected the settings of a run, got KeyErr"):
        checkpoint_settings(path)


@pytest.mark.parametrize(
    ("task", "entry"), [("segmentation", "normalization"), ("detection", "ids")]
)
def test_classes_that_lack_something_are_named(tmp_path, task, entry):
    path = save(tmp_path / "a.ckpt", settings({}) | {"task": task})
    message = f"^{path}: record: classes: expected their {entry}"
    with pytest.raises(ValueError, match=message):
        main(["predict", "--traceback", f"--checkpoint={path}", f"--images={tmp_path}", "--out=x"])


@pytest.mark.parametrize(
    "entries",
    [
        {"ids": [3, 4]},
        {"ids": ["3"]},
        {"normalization": {"mean": [0.5, 0.5, 0.5]}},
        {"normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0]}},
        {"normalization": {"mean": [0.5, 0.5, "0"], "std": [0.2, 0.2, 0.2]}},
    ],
)
def test_broken_classes_are_named(tmp_path, entries):
    path = tmp_path / "a.ckpt"
    classes = {"names": ["cat"], "palette": [[1, 2, 3]]} | entries
    record = {"settings": settings({}), "classes": classes}
    torch.save({"state_dict": {}, "global_step": 1, "record": record}, path)
    with pytest.raises(ValueError, match=f"^{path}: record: expected settings and classes"):
        checkpoint_settings(path)


def test_test_predicts_anew(trained, tmp_path):
    run, out = arguments(trained / "data", trained / "run"), tmp_path / "out"
    main(["test", *run, f"--out={out}"])
    first = content(out)
    for path in (out / "labels").rglob("*.png"):
        path.write_bytes(b"stale")
    main(["test", *run, f"--out={out}"])
    assert content(out) == first


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_how_to_go_on(root, tmp_path, number):
    run = tmp_path / "run"
    command = [sys.executable, "-c", "from dyngraph.cli import main; main()", "fit"]
    process = subprocess.Popen(
        [*command, *arguments(root, run, steps=5000)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (run / "config.yaml").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output == ""
    assert errors.splitlines()[-1] == (
        f"{number.name}: saved {run / 'last.ckpt'}; "
        "the same command with --trainer.resume true continues from there"
    )
    assert 1 <= load(run)["global_step"] < 5000
