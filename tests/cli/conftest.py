"""Pictures for TensorBoard, most of the time of a short run, are left to the tests about them."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dyngraph.train.pictures import LogFigures

DRAW = LogFigures.on_validation_end
VIEW = LogFigures.on_fit_end


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogFigures, "on_validation_end", lambda *args: None)
        patch.setattr(LogFigures, "on_fit_end", lambda *args: None)
        yield


@pytest.fixture
def pictures(monkeypatch):
    """Has runs draw them; returns the names of those of a run."""
    monkeypatch.setattr(LogFigures, "on_validation_end", DRAW)
    monkeypatch.setattr(LogFigures, "on_fit_end", VIEW)

    def names(folder):
        return set(EventAccumulator(str(folder / "tensorboard")).Reload().Tags()["images"])

    return names
