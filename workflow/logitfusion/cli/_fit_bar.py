"""How far a fit is: a bar on a terminal, a line now and then elsewhere, nothing for a fit of a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from logitfusion.clip.methods.progress import listening
from logitfusion.progress.pace import ShareLines

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


@contextmanager
def fit_bar(name: str) -> Iterator[None]:
    """Shows on stderr how far the fits within this block are, together one piece of work."""
    if not sys.stderr.isatty():
        with listening(ShareLines(name, lambda line: print(line, file=sys.stderr, flush=True))):
            yield
        return
    bar = tqdm(total=1.0, desc=name, delay=1.0, leave=False, bar_format=_FORMAT)
    with bar, listening(lambda done, total: bar.update(max(done / total - bar.n, 0.0))):
        yield
