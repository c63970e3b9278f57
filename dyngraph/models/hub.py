"""Models that can be saved to and loaded from folders and the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin as HubModel
else:
    try:
        from huggingface_hub import PyTorchModelHubMixin as HubModel
    except ImportError:

        class HubModel:
            r"""Stands in for :class:`huggingface_hub.PyTorchModelHubMixin`, which is missing."""

            def __init_subclass__(cls, **kwargs: Any) -> None:
                pass

            def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
                raise _missing("save_pretrained")

            def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
                raise _missing("push_to_hub")

            @classmethod
            def from_pretrained(cls, *args: Any, **kwargs: Any) -> None:
                raise _missing("from_pretrained")


def _missing(name: str) -> ImportError:
    return ImportError(f"{name} needs huggingface_hub: pip install 'dyngraph[hub]'")


__all__ = ["HubModel"]
