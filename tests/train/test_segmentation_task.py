import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from dyngraph.train import SegmentationTask, segmentation_loss


class Scores(nn.Module):
    """Scores that do not depend on the image, but on its number in the batch."""

    def __init__(self, **scores):
        super().__init__()
        self.scores = nn.ParameterDict({k: nn.Parameter(v) for k, v in scores.items()})

    def forward(self, image):
        return {name: score[: len(image)] for name, score in self.scores.items()}


def random_labels(*shape):
    return torch.where(torch.rand(shape) < 0.4, 255, torch.randint(5, shape))


def test_the_loss_is_cross_entropy():
    scores = torch.randn(2, 5, 4, 3, requires_grad=True)
    label = random_labels(2, 4, 3)
    loss = segmentation_loss(scores, label)
    want = F.cross_entropy(scores, label, ignore_index=255)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(torch.autograd.grad(loss, scores), torch.autograd.grad(want, scores))


def test_the_loss_without_labels_is_zero():
    scores = torch.randn(2, 5, 4, 3, requires_grad=True)
    loss = segmentation_loss(scores, torch.full((2, 4, 3), 255))
    assert loss == 0
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_the_loss_of_half_scores_is_not_rounded():
    scores = torch.randn(2, 5, 4, 3).bfloat16()
    label = random_labels(2, 4, 3)
    loss = segmentation_loss(scores, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(scores.float(), label, ignore_index=255))


@pytest.mark.parametrize("aux_weight", [None, 0.25])
def test_the_auxiliary_loss(aux_weight):
    scores = {"out": torch.randn(2, 5, 4, 3), "aux": torch.randn(2, 5, 4, 3)}
    options = {} if aux_weight is None else {"aux_weight": aux_weight}
    task = SegmentationTask(Scores(**scores), num_classes=5, **options)
    task.log = lambda *args, **kwargs: None
    image, label = torch.randn(2, 3, 4, 3), random_labels(2, 4, 3)
    weight = 0.4 if aux_weight is None else aux_weight
    out, aux = (F.cross_entropy(scores[name], label, ignore_index=255) for name in ("out", "aux"))
    torch.testing.assert_close(task.training_step((image, label), 0), out + weight * aux)
    assert torch.equal(task(image), scores["out"])


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize(
    "options", [{}, {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1}], ids=["defaults", "given"]
)
def test_the_optimiser_and_its_schedule(options):
    rates = []

    class Task(SegmentationTask):
        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    task = Task(Scores(out=torch.randn(1, 5, 4, 3)), num_classes=5, **options)
    batches = DataLoader([(torch.randn(3, 4, 3), random_labels(4, 3))] * 12, batch_size=1)
    trainer = Trainer(
        max_steps=10, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, batches)
    (optimizer,) = trainer.optimizers
    assert type(optimizer) is torch.optim.SGD
    decayed, kept = optimizer.param_groups
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4} | options
    lr = settings.pop("lr")
    settings |= {"nesterov": False, "dampening": 0}
    assert {name: decayed[name] for name in settings} == settings
    settings["weight_decay"] = 0
    assert {name: kept[name] for name in settings} == settings
    assert len(decayed["params"] + kept["params"]) == 1
    # The schedule multiplies step by step, rounding each time.
    assert rates == pytest.approx([lr * (1 - t / 10) ** 0.9 for t in range(10)], rel=1e-12)


@pytest.mark.filterwarnings("ignore:::lightning")
def test_scores_are_those_of_the_labelled_pixels():
    """Counted pixel by pixel, over batches, one image without labels."""
    labels = random_labels(5, 4, 3)
    labels[2] = 255
    scores = torch.randn(2, 5, 4, 3)
    task = SegmentationTask(Scores(out=scores), num_classes=5, object_classes=[1, 2])
    batches = DataLoader([(torch.zeros(3, 4, 3), label) for label in labels], batch_size=2)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (found,) = trainer.validate(task, batches, verbose=False)
    pixels = [
        (int(label), int(scores[number % 2, :, row, column].argmax()))
        for number in range(5)
        for row in range(4)
        for column in range(3)
        if (label := labels[number, row, column]) != 255
    ]
    ious = [
        sum(label == prediction == c for label, prediction in pixels)
        / sum(c in pair for pair in pixels)
        for c in range(5)
    ]
    right = sum(label == prediction for label, prediction in pixels)
    # Lightning logs in float32.
    assert found == pytest.approx(
        {
            "miou": sum(ious) / 5,
            "pixel_accuracy": right / len(pixels),
            "object_iou": (ious[1] + ious[2]) / 2,
        },
        rel=1e-7,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ohem_min_kept": -1}, "ohem_min_kept: expected at least 0, got -1"),
        ({"aux_weight": -0.1}, "aux_weight: expected at least 0, got -0.1"),
        ({"weight_decay": -0.1}, "weight_decay: expected at least 0, got -0.1"),
        ({"object_classes": [1, 5]}, r"object_classes: expected classes 0\.\.4, got 5"),
        ({"object_classes": [-1]}, r"object_classes: expected classes 0\.\.4, got -1"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        SegmentationTask(torch.nn.Identity(), num_classes=5, **options)
