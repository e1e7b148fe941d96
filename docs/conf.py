"""Sphinx builds these pages: ``make docs`` writes docs/_build/html, and a warning is an error.

How pages are written:

* Markdown (MyST), which a code host shows as well: links to files (``../methods/fusion.md#options``), formulas as
  ``$...$`` and ``$$...$$`` (they become MathML: no script, no network), no directive where plain Markdown will do.
* Each fenced block names its language. tests/test_documents.py runs every ``bash`` and ``python`` block as printed, in
  a folder like a checkout after ``make demo`` (with tiny models); the blocks of a page run from top to bottom in one
  folder, its Python blocks in one namespace. A ``yaml`` block is a config, or sections that go into the demo's, and
  is validated. ``json``, ``text`` and ``mermaid`` are for reading: what a command prints, say.
* A block that can't run there has a line right above it, ``<!-- not run: needs a SLURM cluster -->``. Its commands are
  parsed all the same: targets of make, options, files. For YAML that is no config (a profile, a task's file):
  ``<!-- not a config: ... -->``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "docs")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "logitfusion"
author = copyright = "The logitfusion developers"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generate.mathml"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "generate"]
nitpicky = True  # a reference that leads nowhere is an error
# But for types in signatures: other projects' pages are not asked, and not every type of ours has a page.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|logitfusion|numpy|os|pathlib|peft|tokenizers|torch|transformers)\..*")
]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "logitfusion"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_math_renderer = "mathml"
html_copy_source = False
