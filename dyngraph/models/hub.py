"""Models in folders and on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from dyngraph.data.files import write_file, write_png
from dyngraph.models.listed import listed
from dyngraph.models.model_card import PICTURE, model_card
from dyngraph.models.recipe import BUILDERS, Recipe
from dyngraph.models.safetensors_files import read_safetensors, save_safetensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

_KEYS = {"model", "arguments", "class_names"}

Model = TypeVar("Model", bound="HubModel")


class HubModel(nn.Module):
    r"""A model that can be saved to a folder or the Hugging Face Hub, and loaded from there."""

    recipe: Recipe | None = None
    """How it was built, if by a function or class whose models can be saved."""
    class_names: tuple[str, ...] | None = None
    """The names of its classes, if they are known."""

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        class_names: Sequence[str] | None = None,
        scores: Mapping[str, float] | None = None,
        picture: Tensor | None = None,
    ) -> None:
        r"""Saves the model to a folder: its configuration, its weights, and a page about it.

        Args:
            folder: The folder, which is made if it's missing.
            class_names: The names of its classes. Defaults to the model's ``class_names``.
            scores: What it scored, by name, for the page.
            picture: A picture for the page, ``[3, H, W]``, uint8.

        Raises:
            ImportError: If safetensors is missing.
            OSError: If a file cannot be written.
            ValueError: If the model was not built by names alone, or was changed since, so that it
                could not be built again; or if there is not one name for each class.
        """
        folder = Path(folder)
        self._save(folder, folder.resolve().name, class_names, scores, picture)

    def push_to_hub(
        self,
        name: str,
        *,
        class_names: Sequence[str] | None = None,
        scores: Mapping[str, float] | None = None,
        picture: Tensor | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        r"""Saves the model on the Hub.

        Args:
            name: ``"user/name"``. It is made if it's missing.
            class_names: See :meth:`save_pretrained`, as for ``scores`` and ``picture``.
            scores: The scores for the page.
            picture: The picture for the page.
            private: Whether a new one is seen by its owner alone. Defaults to the owner's settings.
            token: The token of the user. Defaults to the one that is logged in.

        Returns:
            The address of the commit.

        Raises:
            ImportError: If huggingface_hub or safetensors is missing.
            ValueError: As :meth:`save_pretrained` does.
        """
        hub = _hub("push_to_hub")
        with TemporaryDirectory() as folder:
            self._save(Path(folder), name, class_names, scores, picture)
            api = hub.HfApi(token=token)
            api.create_repo(name, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=name, folder_path=folder))

    @classmethod
    def from_pretrained(cls: type[Model], name: str | Path, **options: Any) -> Model:
        r"""Loads a model of this class, see :func:`~dyngraph.models.from_pretrained`.

        Raises:
            ValueError: If it is a model of another class, or as the function does.
        """
        model = from_pretrained(name, **options)
        if not isinstance(model, cls):
            raise ValueError(f"{name}: expected a {cls.__name__}, got a {type(model).__name__}")
        return model

    def _save(
        self,
        folder: Path,
        name: str,
        class_names: Sequence[str] | None,
        scores: Mapping[str, float] | None,
        picture: Tensor | None,
    ) -> None:
        if (recipe := self.recipe) is None:
            raise ValueError(
                f"model: expected one built by one of {(*BUILDERS,)}, got a {type(self).__name__}"
            )
        for argument, kind in recipe.left_out.items():
            raise ValueError(
                f"{argument}: expected a name or one of dyngraph's blocks in a model that is "
                f"saved, to build it again; it was built with a {kind}"
            )
        _check_weights("model", recipe, _empty_weights(recipe), self.state_dict())
        if picture is not None and (
            picture.dim() != 3 or len(picture) != 3 or picture.dtype != torch.uint8
        ):
            raise ValueError(
                f"picture: expected [3, H, W], uint8, got {list(picture.shape)}, {picture.dtype}"
            )
        names = self.class_names if class_names is None else tuple(class_names)
        config = {
            "model": recipe.builder,
            "arguments": recipe.arguments,
            "class_names": _check_names("class_names", recipe, names),
        }
        card = model_card(name, recipe, names, scores, has_picture=picture is not None)
        save_safetensors(self, folder / WEIGHTS)
        write_file(folder / CONFIG, json.dumps(config, indent=2).encode())
        write_file(folder / CARD, card.encode())
        if picture is not None:
            write_png(folder / PICTURE, picture.permute(1, 2, 0).cpu().numpy())


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> HubModel:
    r"""Loads a model that :meth:`~HubModel.save_pretrained` or :meth:`~HubModel.push_to_hub` saved.

    Its files are not trusted: nothing in them is executed, only dyngraph's own builders and blocks
    are called, and a file of a wrong form is an error that names it.

    Args:
        name: A folder, or the name ``"user/name"`` of a model on the Hub.
        revision: A commit, branch or tag on the Hub. Defaults to the newest commit.
        token: The token of the user, for private models.
        cache_dir: Where downloads are kept. Defaults to the Hub's folder.
        local_files_only: Whether to take only what was downloaded before.

    Returns:
        The model, on the CPU, in evaluation mode. ``class_names`` has the names of its classes, if
        they were saved.

    Raises:
        ImportError: If safetensors is missing, or huggingface_hub for a model that is no folder.
        OSError: If a file is missing or not readable.
        ValueError: If a file does not describe a model, or the weights are of another one.

    Example:
        >>> import tempfile
        >>> from dyngraph.models import from_pretrained, segmenter
        >>> model = segmenter("small_trunk", "repgraph", num_classes=2, head_channels=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder, class_names=["street", "car"])
        ...     from_pretrained(folder).class_names
        ('street', 'car')
    """
    if Path(name).is_dir():
        config_path, weights_path = (Path(name, file) for file in (CONFIG, WEIGHTS))
    else:
        hub = _hub("from_pretrained")
        try:
            config_path, weights_path = (
                Path(
                    hub.hf_hub_download(
                        str(name),
                        file,
                        revision=revision,
                        token=token,
                        cache_dir=cache_dir,
                        local_files_only=local_files_only,
                    )
                )
                for file in (CONFIG, WEIGHTS)
            )
        # A missing file, a missing network and a name of a wrong form have no common base class.
        except Exception as error:
            raise OSError(
                f"{name}: expected a folder, or a model on the Hub that can be reached, "
                f"got {error!r}"
            ) from error
    recipe, class_names = _read_config(config_path)
    try:
        wanted = _empty_weights(recipe)
    except ImportError:
        raise
    # Values of a wrong kind raise whatever the first line that meets them does.
    except Exception as error:
        raise _broken(config_path, repr(error)) from error
    weights = read_safetensors(weights_path)
    _check_weights(str(weights_path), recipe, wanted, weights)
    with torch.device("cpu"):
        model = cast(HubModel, recipe.build())
    # In the precision that they were saved in. Those of a file may be anywhere in memory, which
    # other kernels would compute with, in another order: copies are where PyTorch wants them.
    copies = {name: tensor.clone() for name, tensor in weights.items()}
    model.load_state_dict(copies, assign=True)
    model.class_names = class_names
    return model.eval()


def _read_config(path: Path) -> tuple[Recipe, tuple[str, ...] | None]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OSError(f"{path}: expected a readable file, got {error.strerror}") from error
    try:
        config = json.loads(content)
    # Broken JSON, broken UTF-8, or brackets without end.
    except (ValueError, RecursionError) as error:
        raise _broken(path, repr(error)) from error
    if not isinstance(config, dict) or config.keys() != _KEYS:
        found = [*config] if isinstance(config, dict) else type(config).__name__
        raise _broken(path, f"{found} instead of {sorted(_KEYS)}")
    model, arguments, names = (config[key] for key in ("model", "arguments", "class_names"))
    if not isinstance(model, str) or model not in BUILDERS:
        raise _broken(path, f"model: {model!r} instead of one of {(*BUILDERS,)}")
    if not isinstance(arguments, dict):
        raise _broken(path, f"arguments: {arguments!r}")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise _broken(path, f"class_names: {names!r}")
    recipe = Recipe(model, arguments, {})
    names = None if names is None else tuple(names)
    _check_names(f"{path}: class_names", recipe, names)
    return recipe, names


def _check_names(
    source: str, recipe: Recipe, names: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    count = recipe.arguments.get("num_classes")
    if names is not None and len(names) != count:
        raise ValueError(f"{source}: expected a name for each of {count} classes, got {len(names)}")
    return names


def _empty_weights(recipe: Recipe) -> dict[str, Tensor]:
    """The weights of a model without the memory for them."""
    with torch.device("meta"):
        return recipe.build().state_dict()


def _check_weights(
    source: str, recipe: Recipe, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    differing = [
        name
        for name, tensor in weights.items()
        if name in wanted
        and (
            tensor.shape != wanted[name].shape
            or tensor.is_floating_point() != wanted[name].is_floating_point()
        )
    ]
    if missing or unexpected or differing:
        raise ValueError(
            f"{source}: expected the weights of {recipe.builder}; missing {listed(missing)}, "
            f"unexpected {listed(unexpected)}, of another size {listed(differing)}"
        )


def _broken(path: Path, found: str) -> ValueError:
    return ValueError(f"{path}: expected what save_pretrained writes, got {found}")


def _hub(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"{name} needs huggingface_hub: pip install 'dyngraph[hub]'") from error
    return huggingface_hub
