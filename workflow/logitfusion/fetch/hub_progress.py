"""How far a download from the hub is, as lines of a log: the hub's client knows bars, and wants a class of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from logitfusion.progress.pace import Rate


class Progress:
    """Megabytes as they come.

    Attributes:
        bar: the class of bars for the client.
    """

    def __init__(self, title: str) -> None:
        self.title, self.came, self.rate = title, 0, None
        progress = self

        class Bar:
            def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
                self.n, self.total = 0, total

            def update(self, size: int = 1) -> None:
                self.n += size
                progress.add(size)

            def update_transfer(self, size: int) -> None:
                """Of Xet: what comes over the network, which is told as what is written."""

            def __getattr__(self, name: str) -> Callable[..., None]:
                return lambda *_, **__: None

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        self.bar = Bar

    def begin(self, total: int) -> None:
        """From now on tell what comes, of so many bytes."""
        self.came, self.rate = 0, Rate(self.title, "MB", round(total / 1e6)) if total >= 1e6 else None

    def add(self, size: int) -> None:
        """So many more bytes came."""
        before, self.came = self.came, self.came + size
        if self.rate is not None and (more := round(self.came / 1e6) - round(before / 1e6)):
            self.rate(more)
