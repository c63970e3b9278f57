"""Scores of runs over their iterations."""

import pytest

from dyngraph.viz import draw_curves

LOGS = {
    "mask_rcnn": {
        "box_ap": {10_000: 0.25, 20_000: 0.375},
        "mask_ap": {10_000: 0.125, 20_000: 0.25},
        "loss": {0: 2.5},
    },
    "dgmn": {
        "box_ap": {10_000: 0.5, 20_000: 0.4375, 30_000: 0.625},
        "mask_ap": {10_000: 0.0, 20_000: 0.75, 30_000: 1.0},
        "loss": {0: 3.0},
    },
}


def test_lines_are_the_logs_in_percent():
    figure = draw_curves(LOGS, ["box_ap", "mask_ap"])
    assert len(figure.axes) == 2
    for panel, metric in zip(figure.axes, ("box_ap", "mask_ap"), strict=True):
        assert len(panel.lines) == 2
        for line, (run, log) in zip(panel.lines, LOGS.items(), strict=True):
            assert line.get_label() == run
            assert line.get_xdata().tolist() == [*log[metric]]
            assert line.get_ydata().tolist() == [100 * score for score in log[metric].values()]
        legend = panel.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == [*LOGS]
        # Lines are told apart by their colours, and by their markers without them.
        for of in ("get_color", "get_marker"):
            assert len({getattr(line, of)() for line in panel.lines}) == 2
            assert [getattr(handle, of)() for handle in legend.legend_handles] == [
                getattr(line, of)() for line in panel.lines
            ]


@pytest.mark.parametrize(
    ("metric", "label", "factor"),
    [
        ("box_ap", r"$\mathrm{AP}^{\mathrm{box}}$ (%)", 100),
        ("mask_ap75", r"$\mathrm{AP}^{\mathrm{mask}}_{75}$ (%)", 100),
        ("box_ap/stop sign", r"$\mathrm{AP}^{\mathrm{box}}$ of stop sign (%)", 100),
        ("miou", "mIoU (%)", 100),
        ("object_iou", "mIoU of objects (%)", 100),
        ("pixel_accuracy", "pixel accuracy (%)", 100),
        ("iou/traffic light", "IoU of traffic light (%)", 100),
        ("loss", "loss", 1),
        ("loss_box_reg", "loss_box_reg", 1),
    ],
)
def test_axes_say_what_they_are(metric, label, factor, tmp_path):
    figure = draw_curves({"run": {metric: {5: 0.5}}}, [metric])
    (panel,) = figure.axes
    assert panel.get_xlabel() == "iterations"
    assert panel.get_ylabel() == label
    assert panel.lines[0].get_ydata().tolist() == [factor * 0.5]
    # matplotlib reads formulas when it draws.
    figure.savefig(tmp_path / "curves.png")


def test_iterations_are_whole_and_thousands_short():
    figure = draw_curves(LOGS, ["box_ap"])
    figure.draw_without_rendering()
    (panel,) = figure.axes
    for tick, text in zip(panel.get_xticks(), panel.get_xticklabels(), strict=True):
        assert text.get_text() == f"{tick / 1000:g}k"
    figure = draw_curves({"run": {"miou": {1: 0.5, 2: 0.5}}}, ["miou"])
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks().tolist()
    assert ticks == [int(tick) for tick in ticks]


def test_a_metric_that_a_run_lacks_is_named():
    logs = {**LOGS, "fcn": {"miou": {1: 0.5}}}
    with pytest.raises(ValueError, match=r"^metrics: expected some of \['miou'\] of fcn, got box"):
        draw_curves(logs, ["box_ap"])


@pytest.mark.parametrize(("logs", "metrics"), [({}, ["miou"]), (LOGS, [])])
def test_nothing_to_draw(logs, metrics):
    with pytest.raises(ValueError, match=r"^logs, metrics: expected at least one, got "):
        draw_curves(logs, metrics)
