"""Formulas as MathML, which browsers draw themselves: pages need no script and no network."""

import re
from html import escape

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)
_CONVERTER = LatexToMathML(fancy_error=False)


def _mathml(latex: str, node: nodes.Node, displaystyle: bool) -> str:
    try:
        return _CONVERTER.convert_with_local_state(latex, displaystyle=displaystyle)
    except LatexError as error:
        _LOGGER.warning("not a formula: %s", error, location=node)
        return f"<code>{escape(latex)}</code>"


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), node, displaystyle=False))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    # As for MathJax: an empty line separates formulas, a double backslash the lines of one.
    for latex in filter(None, map(str.strip, re.split(r"\n\s*\n", node.astext()))):
        if r"\\" in latex and not latex.startswith(r"\begin"):
            latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
        mathml = _mathml(latex, node, displaystyle=True)
        translator.body.append(f'<div class="formula">{mathml}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
