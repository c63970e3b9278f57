from types import SimpleNamespace

import torch
from torch import nn

from dyngraph.cli import run
from dyngraph.cli.segmentation import SegmentationRun


def test_trained_networks_are_on_the_device_of_the_trainer(monkeypatch):
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    monkeypatch.setattr(run, "_trainer", lambda args: SimpleNamespace(strategy=strategy))
    monkeypatch.setattr(SegmentationRun, "trained_task", lambda *args: nn.Linear(1, 1))
    assert SegmentationRun().placed_task(None, None, {}).weight.is_meta
