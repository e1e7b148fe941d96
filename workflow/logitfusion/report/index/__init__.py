"""The page that a reader opens first: what ran, what came out, every number, what it cost, and how it was set."""

from logitfusion.report.index.page import PageSection, render_page, write_page

__all__ = ["PageSection", "render_page", "write_page"]
