"""Formulas as MathML, which browsers draw by themselves: pages need no script and no network for them."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this; ``html_math_renderer = "mathml"`` then chooses it."""
    app.add_html_math_renderer("mathml", (_draw_inline, None), (_draw_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _draw_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_draw(node, as_block=False))
    raise nodes.SkipNode


def _draw_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_draw(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _draw(node: nodes.Element, *, as_block: bool) -> str:
    """A formula in MathML; one that can't be read is a warning, which names its page and line."""
    try:
        return tex2mathml(node.astext().replace(r"\dots", r"\ldots"), as_block=as_block)
    except MathError as error:
        logger.warning("this formula can't be read (%s): %s", error, node.astext(), location=node)
        return f"<code>{escape(node.astext())}</code>"
