"""Help that a user reads to the end."""

import inspect

import lightning
import pytest

from dyngraph.cli import main
from dyngraph.models import mask_rcnn, segmenter
from dyngraph.train import DetectionTask, SegmentationDataModule, SegmentationTask, fit

# Of a terminal of 50 lines.
TWO_SCREENS = 100


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def shown(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


def arguments_of(*functions):
    return {name for function in functions for name in inspect.signature(function).parameters}


@pytest.mark.parametrize("task", ["segmentation", "detection"])
@pytest.mark.parametrize("command", ["validate", "test", "predict", "view"])
def test_the_other_commands_are_as_brief(command, task, capsys):
    lines = shown([command, f"--task={task}", "--help"], capsys).splitlines()
    # And their own arguments.
    assert len(lines) <= TWO_SCREENS + 10
    assert any(line.startswith("  --checkpoint ") for line in lines)


def test_two_screens_name_all_settings_of_a_segmenter(capsys):
    text = shown(["fit", "--help"], capsys)
    assert len(text.splitlines()) <= TWO_SCREENS
    given = {"seed", "num_classes", "class_names", "model", "task", "data", "record"}
    names = arguments_of(SegmentationDataModule, segmenter, SegmentationTask, fit) - given
    names.discard("trainer_options")
    assert [name for name in sorted(names) if f".{name} " not in text] == []
    assert "torch.nn" not in text
    assert "``" not in text


def test_two_screens_name_the_settings_of_a_detection_run(capsys):
    text = shown(["fit", "--task=detection", "--help"], capsys)
    assert len(text.splitlines()) <= TWO_SCREENS
    given = {"model", "seed", "annotation_path", "category_ids"}
    assert [name for name in arguments_of(DetectionTask) - given if f".{name} " not in text] == []


def test_a_group_has_all_its_arguments(capsys):
    text = shown(["fit", "--trainer.help"], capsys)
    names = arguments_of(fit, lightning.Trainer) - {"task", "data", "record", "trainer_options"}
    # What the training loop gives itself.
    names -= {"self", "logger", "check_val_every_n_epoch", "val_check_interval"}
    names -= {"num_sanity_val_steps", "use_distributed_sampler", "default_root_dir"}
    assert [name for name in sorted(names) if f"--trainer.{name} " not in text] == []
    assert "--data." not in text
    assert "known subclasses" not in text


def test_a_group_of_the_other_task(capsys):
    text = shown(["fit", "--task", "detection", "--network.help"], capsys)
    assert [n for n in arguments_of(mask_rcnn) - {"num_classes", "options"} if n not in text] == []
    assert "type: int" in text
