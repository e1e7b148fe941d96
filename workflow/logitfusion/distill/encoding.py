"""A prompt and its response in the tokens of one model, with the bytes of the response that each token covers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedText:
    """A text as one model reads it.

    Attributes:
        ids: the tokens of prompt, response, and what closes the response.
        start: place of the response's first token, at least 1: the logits at ``start - 1`` predict it.
        ends: for each token from ``start`` on, the byte of the response (UTF-8) where it ends, not descending. What
            closes a response of n bytes (end of text, end of turn) ends at n + 1, so that it never belongs to the text.
    """

    ids: tuple[int, ...]
    start: int
    ends: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        """The response's own tokens, what closes it included."""
        return self.ids[self.start :]
