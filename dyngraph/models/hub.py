"""Models that can be saved to and loaded from folders and the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin as HubModel
else:
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError:

        class HubModel:
            r"""Stands in for :class:`huggingface_hub.PyTorchModelHubMixin` if that is missing."""

            def __init_subclass__(cls, **kwargs: Any) -> None:
                pass

            def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
                raise _missing("save_pretrained")

            def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
                raise _missing("push_to_hub")

            @classmethod
            def from_pretrained(cls, *args: Any, **kwargs: Any) -> None:
                raise _missing("from_pretrained")

    else:

        class HubModel(PyTorchModelHubMixin):
            r"""A model that can be saved and loaded; errors in loading name the folder."""

            @classmethod
            def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
                r"""Loads a model from a folder or the Hub.

                Raises:
                    OSError: If there is none, or its files are broken or do not fit the class.
                """
                try:
                    return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
                except OSError:
                    raise
                # Broken files raise errors of JSON, of safetensors, or of the class itself.
                except Exception as error:
                    raise OSError(
                        f"{pretrained_model_name_or_path}: expected a model of "
                        f"{cls.__name__}, got {error!r}"
                    ) from error


def _missing(name: str) -> ImportError:
    return ImportError(f"{name} needs huggingface_hub: pip install 'dyngraph[hub]'")


__all__ = ["HubModel"]
