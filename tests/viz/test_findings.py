"""What a model finds, read from what it returns."""

import pytest
import torch
from tiny_transformers import tiny_inputs, tiny_model
from torch.nn.functional import interpolate

from dyngraph.viz.findings import MOST_CELLS, read_output


@pytest.mark.parametrize("form", ["tensor", "out", "logits"])
def test_segmentation(form):
    scores = torch.randn(1, 11, 6, 8)
    output = scores if form == "tensor" else {form: scores}
    found, objects = read_output(output, (12, 16), 0.5)
    assert objects is None
    whole = interpolate(scores, size=(12, 16), mode="bilinear")[0]
    assert torch.equal(found.classes, whole.argmax(dim=0))
    want = whole.softmax(dim=0).sort(dim=0, descending=True)
    assert (found.every, found.num_classes) == (1, 11)
    assert torch.equal(found.best, want.indices[:8])
    torch.testing.assert_close(found.scores, want.values[:8])


def test_scores_of_some_pixels_of_a_large_image():
    scores = torch.randn(1, 3, 300, 400)
    found, _ = read_output(scores, (300, 400), 0.5)
    assert found.every == 2
    assert found.scores.shape == (3, 150, 200)
    assert found.scores[0].numel() <= MOST_CELLS
    # The pixel in the middle of a cell.
    assert torch.equal(found.best[0], found.classes[1::2, 1::2])


def test_objects_of_torchvision():
    masks = torch.zeros(3, 1, 4, 5)
    masks[0, 0, :2] = 0.6
    masks[1, 0, 1:3] = 0.9
    masks[2] = 1
    output = {
        "boxes": torch.arange(12.0).view(3, 4),
        "labels": torch.tensor([2, 1, 3]),
        "scores": torch.tensor([0.9, 0.6, 0.3]),
        "masks": masks,
    }
    found, objects = read_output([output], (4, 5), 0.5)
    assert found is None
    assert objects.boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    # Without the background.
    assert objects.labels.tolist() == [1, 0]
    assert objects.queries is None
    assert objects.masks[:, 0].tolist() == [1, 1, 2, 0]
    del output["masks"]
    assert read_output([output], (4, 5), 0.5)[1].masks is None


def test_objects_of_transformers():
    model = tiny_model("rt_detr").float()
    inputs = {key: value[:1].float() for key, value in tiny_inputs("rt_detr").items()}
    with torch.no_grad():
        output = model(**inputs)
    scores, labels = output.logits[0].sigmoid().max(dim=1)
    threshold = float(scores.median())
    _, objects = read_output(output, (40, 60), threshold)
    assert 0 < len(objects.scores) < 6
    assert objects.scores.tolist() == sorted(scores[scores >= threshold].tolist(), reverse=True)
    assert torch.equal(objects.labels, labels[objects.queries])
    x, y, width, height = output.pred_boxes[0, objects.queries[0]].tolist()
    want = [
        60 * (x - width / 2),
        40 * (y - height / 2),
        60 * (x + width / 2),
        40 * (y + height / 2),
    ]
    assert objects.boxes[0].tolist() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("output", [None, 3, torch.zeros(1, 10), {"loss": torch.zeros(())}, []])
def test_other_outputs_are_ignored(output):
    assert read_output(output, (4, 5), 0.5) == (None, None)
