"""Predictions as files in Cityscapes' format, and their scores by its official code."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from dyngraph.data.cityscapes import CLASS_NAMES, TRAIN_ID_TO_ID, decode_labels
from dyngraph.data.files import write_png


def prediction_path(folder: str | Path, image_path: str | Path) -> Path:
    r"""Where the prediction for an image ``…_leftImg8bit.png`` is written."""
    return Path(folder) / Path(image_path).name.replace("_leftImg8bit.png", "_pred_labelIds.png")


def write_prediction(folder: str | Path, image_path: str | Path, classes: Tensor) -> Path:
    r"""Writes predicted training ids ``[H, W]`` as a PNG of label ids, for the evaluation server.

    Returns:
        The path of the file.
    """
    path = prediction_path(folder, image_path)
    write_png(path, decode_labels(classes.cpu()).numpy())
    return path


def judge_predictions(prediction_paths: list[Path], label_paths: list[Path]) -> dict[str, float]:
    r"""The IoU of each of the 19 classes, by name, and the ``"mean"``, by ``cityscapesscripts``.

    A class that is neither in the labels nor in the predictions is NaN, and left out of the mean.
    ``"pixel_accuracy"`` is the share of the labelled pixels whose class is predicted, counted in
    the confusion matrix of ``cityscapesscripts``, which lacks this score.

    Args:
        prediction_paths: PNG files of label ids.
        label_paths: The ``…_gtFine_labelIds.png`` of the same images.

    Raises:
        ImportError: If ``cityscapesscripts`` is missing.
        ValueError: If the lists differ in length.
    """
    try:
        judge = import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    except ImportError as error:
        raise ImportError(
            "judge_predictions needs cityscapesscripts: pip install 'dyngraph[eval]'"
        ) from error
    if len(prediction_paths) != len(label_paths):
        raise ValueError(
            f"label_paths: expected {len(prediction_paths)} files, got {len(label_paths)}"
        )
    args = judge.args
    args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
    with contextlib.redirect_stdout(io.StringIO()):
        result = judge.evaluateImgLists(
            [str(path) for path in prediction_paths], [str(path) for path in label_paths], args
        )
    # Its table includes the classes that it ignores.
    scores = {name: float(result["classScores"][name]) for name in CLASS_NAMES}
    ids = TRAIN_ID_TO_ID[: len(CLASS_NAMES)].long()
    # Rows are labels; any prediction outside the 19 is wrong.
    labelled = torch.tensor(result["confMatrix"])[ids]
    hits = labelled.gather(1, ids[:, None]).sum()
    return {
        **scores,
        "mean": float(result["averageScoreClasses"]),
        "pixel_accuracy": float(hits.double() / labelled.sum()),
    }
