"""Formulas as MathML, which browsers draw by themselves: pages need no script and no network for them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


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
    """A formula that LaTeX's grammar or docutils' reader of it refuses ends the build, naming its page and line."""
    return tex2mathml(node.astext(), as_block=as_block)
