import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from oracle_detector import OracleDetector
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dyngraph.data import CocoDetection, generate_coco
from dyngraph.evaluate.coco import detections_to_coco, judge_detections
from dyngraph.models import mask_rcnn
from dyngraph.train import DetectionDataModule, DetectionTask, LogDetections, fit

# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    # Of two processes, one has an image more than the other.
    generate_coco(folder, num_train=6, num_val=9, progress=False)
    return folder


def make_data(coco):
    data = DetectionDataModule(coco, batch_size=2, num_workers=0)
    data.setup("fit")
    return data


def make_task(data, **options):
    torch.manual_seed(0)
    model = mask_rcnn(
        "resnet18",
        context="bottleneck_repgraph",
        num_classes=4,
        min_size=32,
        max_size=128,
        pyramid_channels=16,
        box_batch_size_per_image=8,
        rpn_post_nms_top_n_train=16,
        rpn_post_nms_top_n_test=16,
    )
    return DetectionTask(model, data.val.annotation_path, data.val.category_ids, **options)


def run(data, folder, max_steps, task=None, **options):
    task = make_task(data, lr=0.01) if task is None else task
    options = {"enable_progress_bar": False, "enable_model_summary": False} | options
    return fit(task, data, folder, max_steps, accelerator="cpu", **options)


def validate(coco, task):
    trainer = lightning.Trainer(
        logger=False, accelerator="cpu", use_distributed_sampler=False, enable_progress_bar=False
    )
    (scores,) = trainer.validate(task, make_data(coco), verbose=False)
    return scores


def test_validation_is_the_judge_of_all_detections(coco):
    data = make_data(coco)
    oracle, path, ids = OracleDetector(data.val), data.val.annotation_path, data.val.category_ids
    detections = [
        detection
        for image, target in data.val
        for detection in detections_to_coco(target["image_id"], oracle([image])[0], ids)
    ]
    expected = judge_detections(detections, path)
    assert 0.05 < expected["box_ap"] < 0.95
    # Lightning logs in float32.
    found = validate(coco, DetectionTask(oracle, path, ids))
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.slow
def test_two_processes_are_judged_as_one(coco, tmp_path):
    script = str(Path(__file__).with_name("validate_oracle.py"))
    for name, launcher in (("one", []), ("two", TWO)):
        (tmp_path / name).mkdir()
        command = [sys.executable, *launcher, script, str(coco), str(tmp_path / name)]
        subprocess.run(command, capture_output=True, check=True, timeout=300)
    (one,) = (path.read_text() for path in (tmp_path / "one").iterdir())
    assert 0.05 < json.loads(one)["mask_ap"] < 1
    assert [path.read_text() for path in (tmp_path / "two").iterdir()] == [one] * 2


def test_the_schedule():
    """1x of Mask R-CNN: a warm-up of 500 iterations from a third, a tenth from 60,000 on."""
    task = DetectionTask(torch.nn.Linear(1, 1), "annotations.json", [1])
    optimizer = task.configure_optimizers()["optimizer"]
    (schedule,) = task.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[:1]
    assert optimizer.defaults["momentum"] == 0.9
    steps = [0, 250, 500, 59_999, 60_000, 79_999, 80_000, 89_999]
    rates = [0.02 / 3, 0.02 * 2 / 3, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002]
    assert [0.02 * schedule(step) for step in steps] == pytest.approx(rates)
    constant = DetectionTask(
        torch.nn.Linear(1, 1), "annotations.json", [1], warmup_steps=0, decay_steps=()
    )
    schedule = constant.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [schedule(step) for step in (0, 1, 10**6)] == [1, 1, 1]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(coco, tmp_path):
    data = make_data(coco)
    whole = run(data, tmp_path / "whole", 4)
    run(data, tmp_path / "parts", 2)
    resumed = run(make_data(coco), tmp_path / "parts", 4, resume=True)
    assert resumed == pytest.approx(whole, abs=0, nan_ok=True)
    first, second = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    for name, weight in first["state_dict"].items():
        assert torch.equal(weight, second["state_dict"][name]), name


@pytest.mark.slow
def test_losses_and_pictures_are_logged(coco, tmp_path):
    data = make_data(coco)
    scores = run(data, tmp_path, 2, callbacks=[LogDetections(data.val)], log_every_n_steps=1)
    assert math.isfinite(scores["box_ap"])
    with (tmp_path / "csv/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    names = [name for name in rows[0] if name.startswith("loss_")]
    assert len(names) == 5
    for row in rows:
        assert float(row["loss"]) == pytest.approx(sum(float(row[name]) for name in names))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["images"]) == {"detections", "nodes"}


def test_training_on_all_images(coco):
    data = DetectionDataModule(coco, batch_size=2, num_workers=0, train_split="trainval")
    data.setup("fit")
    trained = [data.train[number, 0][1]["image_id"] for number in range(len(data.train))]
    assert trained == [
        id for split in ("train", "val") for id in CocoDetection(coco, split).image_ids
    ]
    assert len(trained) == 15
    assert data.val.image_ids == CocoDetection(coco, "val").image_ids


def test_the_loss_is_the_sum_of_the_parts(coco):
    data = make_data(coco)
    task = make_task(data)
    batch = data.collate([data.train[0, 1], data.train[1, 2]])
    torch.manual_seed(3)
    parts = task.model(*batch)
    task.log = task.log_dict = lambda *args, **kwargs: None
    torch.manual_seed(3)
    # Five numbers in another order.
    loss = task.training_step(batch, 0)
    torch.testing.assert_close(loss, sum(parts.values()), rtol=1e-6, atol=0)


def one_pixel(size):
    """The run-length encoding of a mask with the pixel at (2, 3)."""
    height, width = size
    before = 3 * height + 2
    return {"size": [height, width], "counts": [before, 1, height * width - before - 1]}


def test_odd_annotations_are_trained_through(coco, tmp_path):
    """A mask of one pixel, a box without area, a crowd region and an image of nothing else."""
    folder = tmp_path / "coco"
    shutil.copytree(coco, folder)
    path = folder / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    image = content["images"][0]
    mask = one_pixel((image["height"], image["width"]))
    common = {"image_id": image["id"], "category_id": 3, "segmentation": mask, "area": 1}
    annotations = [
        {"bbox": [3, 2, 1, 1], "iscrowd": 0},
        {"bbox": [3, 2, 0, 0], "iscrowd": 0},
        {"bbox": [3, 2, 40, 40], "iscrowd": 1},
    ]
    content["annotations"] = [
        {**common, **annotation, "id": number}
        for number, annotation in enumerate(annotations, start=1)
    ]
    path.write_text(json.dumps(content))
    data = make_data(folder)
    assert [len(data.train[number][1]["labels"]) for number in range(2)] == [1, 0]
    task = make_task(data)
    task.log = task.log_dict = lambda *args, **kwargs: None
    task.training_step(data.collate([data.train[0, 1], data.train[1, 2]]), 0).backward()
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_an_unknown_optimiser_is_named():
    with pytest.raises(ValueError, match=r"^optimizer: expected one of .*, got 'lion'"):
        DetectionTask(torch.nn.Linear(1, 1), "annotations.json", [1], optimizer="lion")


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimisers(name, kind):
    task = DetectionTask(
        torch.nn.Linear(1, 1), "annotations.json", [1], lr=0.3, optimizer=name, warmup_factor=0.5
    )
    optimizer = task.configure_optimizers()["optimizer"]
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.15] * 2


@pytest.mark.parametrize(
    ("name", "value"), [("warmup_steps", -1), ("warmup_factor", -1), ("decay_steps", (5, -1))]
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected at least 0, got -1$"):
        DetectionTask(torch.nn.Linear(1, 1), "annotations.json", [1], **{name: value})
