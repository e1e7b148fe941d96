"""How far a fit is: methods that take long tell it, and whoever shows a bar listens.

A listener is set around a fit rather than handed through it, because a fit is made of fits (of folds, of candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[float, float], None]  # done, of how much in all

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this block ``listener`` is told how far each fit is."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(done: float, total: float) -> None:
    """Tell the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(done, total)


@contextmanager
def portion(begin: float, size: float, total: float) -> Iterator[None]:
    """Within this block a fit that is one of several: from ``begin`` on it is ``size`` of ``total``."""
    outer = _listener.get()
    if outer is None:
        yield
        return
    with listening(lambda done, whole: outer(begin + size * done / whole, total)):
        yield
    outer(begin + size, total)
