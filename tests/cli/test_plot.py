"""Curves of runs: those of real runs of both kinds, and of logs that are not there or broken."""

import csv
import re

import pytest
import yaml
from PIL import Image

from dyngraph.cli import main, plot
from dyngraph.data import GENERATORS, generate_coco

# About loaders without workers and logs of few steps.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

RUN = [
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.limit_val_batches=2",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
SEGMENTATION = [
    "--network.backbone=small_trunk",
    "--network.head_channels=8",
    "--data.crop_size=[64,64]",
    "--model.lr=0.1",
]
DETECTION = [
    "--task=detection",
    "--network.backbone=resnet10",
    "--network.min_size=32",
    "--network.max_size=128",
    "--network.pyramid_channels=16",
    "--network.box_batch_size_per_image=8",
    "--network.box_score_thresh=0.0",
]
KINDS = {
    "segmentation": (SEGMENTATION, ["miou", "pixel_accuracy"]),
    "detection": (DETECTION, ["box_ap", "mask_ap"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs of each kind, by its name."""
    folder = tmp_path_factory.mktemp("runs")
    GENERATORS["cityscapes"](folder / "segmentation/data", num_train=2, num_val=2, progress=False)
    generate_coco(folder / "detection/data", num_train=2, num_val=2, progress=False)
    for kind, (options, _) in KINDS.items():
        for name, steps in (("a", 2), ("b", 4)):
            main([
                "fit", *RUN, *options, f"--data.root={folder / kind / 'data'}",
                f"--trainer.folder={folder / kind / name}", f"--trainer.max_steps={steps}",
                "--trainer.validate_every=2",
            ])  # fmt: skip
    return folder


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    drawn = []
    draw = plot.draw_curves

    def keep(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(plot, "draw_curves", keep)
    return drawn


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_lines_have_the_numbers_of_the_logs(kind, runs, figures, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "new/curves.png"
    main(["plot", str(runs / kind / "a"), str(runs / kind / "b"), "--out", str(out)])
    assert capsys.readouterr().out == ""
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size == (1800, 700)
    (figure,) = figures
    assert len(figure.axes) == 2
    for panel, metric in zip(figure.axes, KINDS[kind][1], strict=True):
        assert [line.get_label() for line in panel.lines] == ["a", "b"]
        for line, steps in zip(panel.lines, ([2], [2, 4]), strict=True):
            with (runs / kind / line.get_label() / "csv/metrics.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if row[metric]]
            logged = {int(row["step"]): 100 * float(row[metric]) for row in rows}
            assert line.get_xdata().tolist() == [*logged] == steps
            assert line.get_ydata().tolist() == [*logged.values()]


@pytest.mark.slow
def test_metrics_and_labels(runs, figures, tmp_path):
    folders = [str(runs / f"segmentation/{name}") for name in "ab"]
    metrics = ["loss", "iou/road", "miou"]
    out = tmp_path / "curves.svg"
    main(["plot", *folders, "--out", str(out), "--metrics", *metrics, "--labels", "FCN", "more"])
    assert b"<svg" in out.read_bytes()
    labels = [panel.get_ylabel() for panel in figures[0].axes]
    assert labels == ["loss", "IoU of road (%)", "mIoU (%)"]
    for panel in figures[0].axes:
        assert [line.get_label() for line in panel.lines] == ["FCN", "more"]


def write_log(folder, text):
    path = folder / "csv/metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_folders_of_one_name_are_told_apart(figures, tmp_path):
    folders = [tmp_path / "first/run", tmp_path / "second/run"]
    for folder in folders:
        write_log(folder, "miou,step\n0.5,1\n")
    main(["plot", *map(str, folders), "--out", str(tmp_path / "curves.png")])
    labels = [line.get_label() for line in figures[0].axes[0].lines]
    assert labels == [str(folder) for folder in folders]


@pytest.mark.parametrize("text", [None, "", "miou,step\n", "miou,step\n0.5,1\nmuch,2\n"])
def test_a_log_that_is_missing_empty_or_broken_is_named(text, tmp_path):
    write_log(tmp_path / "good", "miou,step\n0.5,1\n")
    bad, out = tmp_path / "bad", tmp_path / "curves.png"
    path = bad / "csv/metrics.csv" if text is None else write_log(bad, text)
    with pytest.raises((OSError, ValueError), match=re.escape(str(path))):
        main(["--traceback", "plot", str(tmp_path / "good"), str(bad), "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=curves.doc"], r"^out: expected a \.png, \.pdf or \.svg file, got curves\.doc"),
        (["--labels", "x"], r"^labels: expected a different one for each of \[.*\], got \['x'\]"),
        (
            ["--labels", "x", "x"],
            r"^labels: expected a different one for each of .*, got \['x', 'x'\]",
        ),
        (["--metrics", "box_ap"], r"^metrics: expected some of \['loss', 'miou'\] of a, got box"),
        ([], r"^runs: expected one of .* in the logs of all, got \{'a': \['miou'\], 'b': \['box_"),
    ],
)
def test_what_cannot_be_drawn_is_named(arguments, message, tmp_path):
    write_log(tmp_path / "a", "loss,miou,step\n2.0,0.5,1\n")
    write_log(tmp_path / "b", "box_ap,step\n0.5,1\n")
    runs = [str(tmp_path / name) for name in "ab"]
    with pytest.raises(ValueError, match=message):
        main(["--traceback", "plot", *runs, f"--out={tmp_path / 'curves.png'}", *arguments])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "expected"), [("detection", 10_000), ("segmentation", None)])
def test_detectors_are_validated_every_10000_iterations(task, expected, capsys):
    def found(*arguments):
        with pytest.raises(SystemExit):
            main(["fit", f"--task={task}", *arguments, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)["trainer"]["validate_every"]

    given = ["--network.backbone=resnet18", "--trainer.max_steps=90000"]
    assert found(*given) == expected
    assert found(*given, "--trainer.validate_every=7") == 7
    assert found(*given, "--trainer.validate_every=null") is None
