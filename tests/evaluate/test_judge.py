import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dyngraph.data.cityscapes import CLASS_NAMES, encode_labels
from dyngraph.evaluate import class_iou, mean_iou
from dyngraph.evaluate.cityscapes import judge_predictions, prediction_path, write_prediction


def write_label(folder, name, ids):
    path = folder / f"{name}_gtFine_labelIds.png"
    Image.fromarray(ids.numpy().astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("case", ["all", "absent classes", "mostly ignored", "perfect"])
def test_the_judge_agrees(tmp_path, case):
    pytest.importorskip("cityscapesscripts")
    # Ids 0..33, of which 19 count. The last case has some classes in the predictions alone.
    ids_in_use = {"absent classes": [0, 7, 8, 24], "mostly ignored": [0, 1, 2, 3, 4, 26]}
    drawn_from = torch.tensor(ids_in_use.get(case, list(range(34))))
    predictions, labels = [], []
    confusion = torch.zeros(19, 19, dtype=torch.long)
    hits = []
    for number, size in enumerate([(17, 23), (9, 31)]):
        name = f"city_{number:06}_000019"
        ids = drawn_from[torch.randint(len(drawn_from), size)]
        truth = encode_labels(ids).long()
        classes = torch.randint(5 if case == "absent classes" else 19, size)
        right = torch.rand(size) < (1 if case == "perfect" else 0.5)
        classes = torch.where(right & (truth != 255), truth, classes)
        labels.append(write_label(tmp_path, name, ids))
        predictions.append(write_prediction(tmp_path, f"{name}_leftImg8bit.png", classes))
        for label, prediction in zip(truth.flatten(), classes.flatten(), strict=True):
            if label != 255:
                confusion[label, prediction] += 1
                hits.append(label == prediction)
    scores = judge_predictions(predictions, labels)
    expected = dict(zip(CLASS_NAMES, class_iou(confusion).tolist(), strict=True))
    for name, iou in expected.items():
        assert scores[name] == pytest.approx(iou, abs=1e-12, nan_ok=True), name
    assert scores["mean"] == pytest.approx(mean_iou(confusion), abs=1e-12)
    assert scores["pixel_accuracy"] == sum(map(bool, hits)) / len(hits)
    assert set(scores) == {*CLASS_NAMES, "mean", "pixel_accuracy"}
    if case == "perfect":
        assert scores["mean"] == scores["pixel_accuracy"] == 1


def test_predictions_that_are_no_class_are_wrong(tmp_path):
    pytest.importorskip("cityscapesscripts")
    label = write_label(tmp_path, "a_000000_000019", torch.tensor([[7, 7, 8, 26, 0, 3]]))
    classes = torch.tensor([[0, 255, 1, 255, 0, 255]])
    prediction = write_prediction(tmp_path, "a_000000_000019_leftImg8bit.png", classes)
    assert judge_predictions([prediction], [label])["pixel_accuracy"] == 0.5


def test_images_without_a_labelled_pixel(tmp_path):
    pytest.importorskip("cityscapesscripts")
    label = write_label(tmp_path, "a_000000_000019", torch.tensor([[0, 3]]))
    classes = torch.tensor([[0, 1]])
    prediction = write_prediction(tmp_path, "a_000000_000019_leftImg8bit.png", classes)
    assert math.isnan(judge_predictions([prediction], [label])["pixel_accuracy"])


def test_predictions_are_written_as_label_ids(tmp_path):
    folder = tmp_path / "new" / "folder"
    image_path = tmp_path / "bonn" / "bonn_000000_000019_leftImg8bit.png"
    classes = torch.tensor([[0, 18, 255], [13, 5, 0]])
    path = write_prediction(folder, image_path, classes.t().contiguous().t())
    assert path == prediction_path(folder, image_path)
    assert path == folder / "bonn_000000_000019_pred_labelIds.png"
    with Image.open(path) as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[7, 33, 0], [26, 17, 7]]


def test_classes_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"expected train ids .* got 19"):
        write_prediction(tmp_path, "a_leftImg8bit.png", torch.tensor([[19]]))


def test_lists_of_different_lengths(tmp_path):
    pytest.importorskip("cityscapesscripts")
    with pytest.raises(ValueError, match=r"^label_paths: expected 2 files, got 1"):
        judge_predictions([tmp_path / "a", tmp_path / "b"], [tmp_path / "a"])


def test_without_the_judge(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", None
    )
    with pytest.raises(ImportError, match=r"pip install 'dyngraph\[eval\]'"):
        judge_predictions([], [])
