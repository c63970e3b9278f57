"""The page that the Hub shows of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dyngraph.models.recipe import Recipe

PICTURE = "picture.png"

_TASKS = {
    "segmenter": "image-segmentation",
    "mask_rcnn": "object-detection",
    "DGMN2Classifier": "image-classification",
    "DGMN2": "image-feature-extraction",
}
_INPUTS = {
    "segmenter": "It takes images `[B, 3, H, W]`, normalised by `dyngraph.data.eval_transform()`, "
    'and returns the scores of the classes, `{"out": [B, C, H, W]}`.',
    "mask_rcnn": "It takes a list of images `[3, H, W]` in 0..1, and returns the `boxes`, "
    "`labels` (from 1), `scores` and `masks` of each.",
    "DGMN2Classifier": "It takes images `[B, 3, H, W]`, normalised by "
    "`dyngraph.data.eval_transform()`, and returns the scores of the classes, `[B, C]`.",
    "DGMN2": "It takes images `[B, 3, H, W]`, normalised by `dyngraph.data.eval_transform()`, "
    "and returns feature maps at strides 4, 8, 16 and 32.",
}


def model_card(
    name: str,
    recipe: Recipe,
    class_names: Sequence[str] | None,
    scores: Mapping[str, float] | None,
    *,
    has_picture: bool,
) -> str:
    r"""What a model is, how it is loaded, and how good it is, as Markdown.

    Args:
        name: The name to load it by.
        recipe: How it was built.
        class_names: The names of its classes.
        scores: Its scores by name.
        has_picture: Whether there is a file :data:`PICTURE` beside the page.
    """
    header = ["library_name: dyngraph", f"pipeline_tag: {_TASKS[recipe.builder]}"]
    parts = ["\n".join(["---", *header, "tags:", "- dyngraph", "---"])]
    parts.append(f"# {name.rpartition('/')[2]}")
    if has_picture:
        parts.append(f"![]({PICTURE})")
    parts.append(
        f"Built by dyngraph's `{recipe.builder}` with these arguments, and trained. "
        + _INPUTS[recipe.builder]
    )
    parts.append(_table(("argument", "value"), recipe.arguments))
    parts.append(
        "```sh\npip install 'dyngraph[train,hub]'\n```\n\n```python\n"
        f"from dyngraph.models import from_pretrained\n\nmodel = from_pretrained({name!r})\n```"
    )
    if scores:
        rounded = {score: f"{value:.4f}" for score, value in scores.items()}
        parts += ["## Scores", _table(("score", "value"), rounded)]
    if class_names:
        parts += ["## Classes", ", ".join(class_names)]
    return "\n\n".join(parts) + "\n"


def _table(heads: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [heads, ("---", "---"), *((name, f"`{value}`") for name, value in rows.items())]
    return "\n".join(f"| {first} | {second} |" for first, second in lines)
