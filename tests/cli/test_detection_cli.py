"""The command line for detectors, on a small set in the files of COCO."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from small_runs import TINY_DETECTOR as TINY

from dyngraph.cli import main
from dyngraph.config import read_config
from dyngraph.data import CocoDetection, generate_coco

ROOT = Path(__file__).parents[2]
# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    generate_coco(folder, num_train=2, num_val=4, progress=False)
    return folder


def test_train_score_and_predict(coco, tmp_path, capsys, pictures):
    run = [*TINY, f"--data.root={coco}", f"--trainer.folder={tmp_path / 'run'}"]
    run += ["--network.context=bottleneck_repgraph", "--trainer.limit_val_batches=1.0"]
    main(["fit", *run])
    assert pictures(tmp_path / "run") == {"detections", "nodes"}
    pages = sorted(path.stem for path in (tmp_path / "run/viewer").iterdir())
    assert pages == sorted(path.stem for path in (coco / "val2017").iterdir())[:3]
    val = CocoDetection(coco, "val")
    for path, (_, target) in zip(val.image_paths[:3], val, strict=False):
        page = (tmp_path / f"run/viewer/{path.stem}.html").read_text("utf-8")
        data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)<', page)[1])
        assert [label + 1 for label in data["objects"]["labels"]] == target["labels"].tolist()
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


@pytest.fixture(scope="module")
def config(coco, tmp_path_factory):
    """The settings of a trained detector."""
    folder = tmp_path_factory.mktemp("trained")
    main(["fit", *TINY, f"--data.root={coco}", f"--trainer.folder={folder}"])
    return f"--config={folder / 'config.yaml'}"


@pytest.mark.slow
def test_results_for_the_evaluation_server(coco, config, tmp_path):
    """Test images in COCO's own files, without annotations; no pictures are written."""
    content = json.loads((coco / "annotations/instances_train2017.json").read_text())
    del content["annotations"]
    image_info = tmp_path / "image_info_test-dev2017.json"
    image_info.write_text(json.dumps(content))
    out, images = tmp_path / "out", coco / "train2017"
    predict = ["predict", config, f"--out={out}"]
    main([*predict, f"--images={images}", f"--image_info={image_info}"])
    name = "detections_test-dev2017_dyngraph_results.json"
    assert sorted(path.name for path in out.iterdir()) == [name, "records", "results"]
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


@pytest.mark.slow
def test_prediction_needs_no_image_of_the_data_set(coco, config, tmp_path):
    annotations = tmp_path / "elsewhere/annotations/instances_val2017.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_bytes((coco / "annotations/instances_val2017.json").read_bytes())
    out, root = tmp_path / "out", f"--data.root={tmp_path / 'elsewhere'}"
    main(["predict", config, root, f"--images={coco / 'train2017'}", f"--out={out}"])
    assert len(list((out / "detections").iterdir())) == 2


def test_a_broken_annotation_file_is_named(coco, tmp_path):
    path = tmp_path / "annotations/instances_val2017.json"
    path.parent.mkdir()
    path.write_bytes((coco / "annotations/instances_val2017.json").read_bytes()[:-100])
    run = [f"--data.root={tmp_path}", f"--trainer.folder={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=f"^{path}: expected JSON"):
        main(["fit", "--traceback", *TINY, *run])
