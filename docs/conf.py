"""Sphinx configuration. Nothing is fetched from the network: build and pages work offline."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
# Notebooks run in processes of their own: on one thread, as their times are given for.
os.environ["OMP_NUM_THREADS"] = "1"

from dyngraph import __version__

project = "dyngraph"
author = "The dyngraph authors"
project_copyright = author
version = release = __version__

extensions = [
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
templates_path = ["templates"]
html_theme = "furo"
html_title = f"dyngraph {version}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["formulas.css", "gallery.css", "versions.css"]
html_js_files = ["versions.js"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
# A notebook takes less than a minute; a machine may be busy.
nb_execution_timeout = 300
nb_merge_streams = True
# Other libraries' warnings at import, with paths of the machine that built the pages.
nb_output_stderr = "remove"
nb_render_markdown_format = "myst"

# Where file names have no case, `segmenter` and `Segmenter` would be one page.
autosummary_filename_map = {"dyngraph.models.Segmenter": "dyngraph.models.Segmenter-class"}
autodoc_default_options = {"members": True, "show-inheritance": True}
# The docstrings of Lightning and torch are written for their own documentation.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes", "Equivalent PyTorch"]

# What pictures lead to, whose pages are only there once they are built: `tests/docs/test_pages.py`.
linkcheck_ignore = [r"\w+\.html(#[\w-]+)?$"]
