"""Scripts of the repository, run in the process of the tests: importing PyTorch takes seconds."""

import logging
import runpy
import sys

import pytest


def run_script(path, *arguments):
    """Does what ``python path arguments`` does, and returns the exit status."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            return stop.code
        finally:
            # Scripts hide what Lightning tells of itself.
            lightning.setLevel(level)
        return 0
