"""The command line for detectors, on a small set in the files of COCO."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from dyngraph.cli import main
from dyngraph.config import read_config
from dyngraph.data import CocoDetection, generate_coco

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/coco/*.yaml"))
# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

SMALL = [
    "--network.weights_backbone=null",
    "--network.min_size=32",
    "--network.max_size=128",
    "--network.pyramid_channels=16",
    "--network.box_batch_size_per_image=8",
    "--network.rpn_post_nms_top_n_train=16",
    "--network.rpn_post_nms_top_n_test=16",
    "--network.box_detections_per_img=5",
    "--network.box_score_thresh=0.0",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
TINY = ["--task=detection", "--network.backbone=resnet18", *SMALL]


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    generate_coco(folder, num_train=2, num_val=4, progress=False)
    return folder


def scores(capsys):
    """What a command has printed, as text: NaN equals NaN."""
    return dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_recipe_runs(path, coco, tmp_path, capsys):
    arguments = [f"--data.root={coco}", f"--trainer.folder={tmp_path}"]
    main(["fit", f"--config={ROOT / path}", *SMALL, *arguments])
    found = scores(capsys)
    assert {"box_ap", "mask_ap", "box_ap50", "box_ap75"} <= found.keys()
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2


def table_rows():
    """The rows of the settings in ``docs/reproduce.md``."""
    lines = (ROOT / "docs/reproduce.md").read_text().splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == 10 and row[0].startswith("configs/coco")]


@pytest.mark.parametrize("row", table_rows(), ids=lambda row: row[0])
def test_recipes_have_the_settings_of_the_papers(row, capsys):
    path, backbone, size, batch_size, optimizer, lr, weight_decay, steps, decay_steps, warmup = row
    with pytest.raises(SystemExit):
        main(["fit", f"--config={ROOT / path}", "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["network"]["backbone"] == backbone
    sides = [found["network"][name] for name in ("min_size", "max_size")]
    assert "/".join(map(str, sides)) == size
    assert found["data"]["batch_size"] == int(batch_size)
    assert found["model"]["optimizer"] == optimizer
    assert found["model"]["lr"] == float(lr)
    assert found["model"]["weight_decay"] == float(weight_decay)
    assert found["model"]["momentum"] == 0.9
    assert found["trainer"]["max_steps"] == int(steps)
    assert found["model"]["decay_steps"] == [int(step) for step in decay_steps.split(", ")]
    warmup_steps, warmup_factor = warmup.split(", from ")
    assert found["model"]["warmup_steps"] == int(warmup_steps)
    assert found["model"]["warmup_factor"] == float(Fraction(warmup_factor))
    assert found["trainer"]["gradient_clip_val"] is None


def test_the_table_has_every_recipe_that_sets_them():
    bases = {
        str(path)
        for path in CONFIGS
        if {"lr", "weight_decay"} & set(yaml.safe_load((ROOT / path).read_text()).get("model", {}))
    }
    assert {row[0] for row in table_rows()} == bases


def test_train_score_and_predict(coco, tmp_path, capsys):
    run = [*TINY, f"--data.root={coco}", f"--trainer.folder={tmp_path / 'run'}"]
    run += ["--network.context=bottleneck_repgraph", "--trainer.limit_val_batches=1.0"]
    main(["fit", *run])
    fitted = capsys.readouterr().out
    config = f"--config={tmp_path / 'run/config.yaml'}"
    assert read_config(tmp_path / "run/config.yaml")["task"] == "detection"
    main(["validate", config])
    assert capsys.readouterr().out == fitted
    main(["test", config, f"--out={tmp_path / 'test'}"])
    assert capsys.readouterr().out == fitted
    detections = json.loads((tmp_path / "test/detections.json").read_text())
    images = {detection["image_id"] for detection in detections}
    assert images <= set(CocoDetection(coco, "val").image_ids)
    predict = [config, f"--images={coco / 'val2017'}", f"--out={tmp_path / 'out'}"]
    main(["predict", *predict, "--threshold=0.1"])
    names = sorted(path.stem for path in (coco / "val2017").iterdir())
    for folder in ("detections", "overlays", "nodes"):
        assert sorted(path.stem for path in (tmp_path / "out" / folder).iterdir()) == names
    for path in (tmp_path / "out/overlays").iterdir():
        with Image.open(path) as overlay, Image.open(coco / f"val2017/{path.stem}.jpg") as image:
            assert overlay.size == image.size
    # COCO's results, but for the numbers of images.
    found = [
        detection
        for name in names
        for detection in json.loads((tmp_path / f"out/detections/{name}.json").read_text())
    ]
    for detection in found:
        assert detection.pop("category") in CocoDetection(coco, "val").class_names
    for detection in detections:
        del detection["image_id"]
    assert found == detections


def test_results_for_the_evaluation_server(coco, tmp_path):
    """Test images in COCO's own files, without annotations; no pictures are written."""
    run = [*TINY, f"--data.root={coco}", f"--trainer.folder={tmp_path / 'run'}"]
    main(["fit", *run])
    content = json.loads((coco / "annotations/instances_train2017.json").read_text())
    del content["annotations"]
    image_info = tmp_path / "image_info_test-dev2017.json"
    image_info.write_text(json.dumps(content))
    out, images = tmp_path / "out", coco / "train2017"
    predict = ["predict", f"--config={tmp_path / 'run/config.yaml'}", f"--out={out}"]
    main([*predict, f"--images={images}", f"--image_info={image_info}"])
    name = "detections_test-dev2017_dyngraph_results.json"
    assert sorted(path.name for path in out.iterdir()) == [name, "results"]
    found = json.loads((out / name).read_text())
    assert {detection["image_id"] for detection in found} == {1, 2}
    # The same as without the list, in which images have no numbers.
    main([*predict, f"--images={images}", f"--out={tmp_path / 'plain'}"])
    plain = [
        {"image_id": number} | detection
        for number in (1, 2)
        for detection in json.loads((tmp_path / f"plain/detections/{number:012d}.json").read_text())
    ]
    for detection in plain:
        del detection["category"]
    assert found == plain
    with pytest.raises(FileNotFoundError, match=r"images, id 1: expected .*, and 1 more"):
        main(
            [*predict, "--traceback", f"--images={coco / 'val2017'}", f"--image_info={image_info}"]
        )


def test_prediction_needs_no_image_of_the_data_set(coco, tmp_path):
    run = [*TINY, f"--data.root={coco}", f"--trainer.folder={tmp_path / 'run'}"]
    main(["fit", *run])
    annotations = tmp_path / "elsewhere/annotations/instances_val2017.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_bytes((coco / "annotations/instances_val2017.json").read_bytes())
    config = [f"--config={tmp_path / 'run/config.yaml'}", f"--data.root={tmp_path / 'elsewhere'}"]
    out = tmp_path / "out"
    main(["predict", *config, f"--images={coco / 'train2017'}", f"--out={out}"])
    assert len(list((out / "detections").iterdir())) == 2


def test_a_broken_annotation_file_is_named(coco, tmp_path):
    path = tmp_path / "annotations/instances_val2017.json"
    path.parent.mkdir()
    path.write_bytes((coco / "annotations/instances_val2017.json").read_bytes()[:-100])
    run = [f"--data.root={tmp_path}", f"--trainer.folder={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=f"^{path}: expected JSON"):
        main(["fit", "--traceback", *TINY, *run])
