import re

import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_confusion_matrix

from dyngraph.evaluate import class_iou, mean_iou, pixel_accuracy
from dyngraph.evaluate.label_files import score_predictions

NAMES = ["road", "car", "sky"]


def write(folder, number, classes):
    path = folder / f"{number}.png"
    Image.fromarray(classes.byte().numpy()).save(path)
    return path


def test_scores_of_files(tmp_path):
    sizes = [(5, 7), (3, 4)]
    found = [torch.randint(3, size) for size in sizes]
    labels = [torch.randint(3, size) for size in sizes]
    labels[0][0, :3] = 255
    paths = [write(tmp_path, number, classes) for number, classes in enumerate(found)]
    scores = score_predictions(paths, iter(labels), NAMES)
    confusion = multiclass_confusion_matrix(
        torch.cat([classes.flatten() for classes in found]),
        torch.cat([label.flatten() for label in labels]),
        num_classes=3,
        ignore_index=255,
    )
    assert scores == {
        **dict(zip(NAMES, class_iou(confusion).tolist(), strict=True)),
        "miou": mean_iou(confusion),
        "pixel_accuracy": pixel_accuracy(confusion),
    }


def test_wrong_files_are_named(tmp_path):
    label = torch.zeros(2, 3, dtype=torch.long)
    path = write(tmp_path, 0, torch.full((2, 3), 3))
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected classes below 3, got 3")):
        score_predictions([path], [label], NAMES)
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected [3, 2], got [2, 3]")):
        score_predictions([path], [label.t()], NAMES)
    path.write_bytes(b"")
    with pytest.raises(OSError, match=f"^{path}: expected a readable PNG image"):
        score_predictions([path], [label], NAMES)


def test_more_pixels_than_may_be(tmp_path):
    label = torch.zeros(2, 3, dtype=torch.long)
    path = write(tmp_path, 0, label)
    assert score_predictions([path], [label], NAMES, max_pixels=6)
    with pytest.raises(OSError, match=f"^{path}: expected .* at most 5 pixels"):
        score_predictions([path], [label], NAMES, max_pixels=5)
