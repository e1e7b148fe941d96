"""Texts read by a served teacher, several at a time, into the shards of a cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from logitfusion.config.distill import Rounding
from logitfusion.config.errors import explain
from logitfusion.distill.offline import PIECE_TOKENS, Teaching, refuse_other_cache, write_cache
from logitfusion.distill.served.answers import Answers
from logitfusion.distill.served.continuity import Watched, refuse_other_teacher
from logitfusion.distill.served.description import Served
from logitfusion.distill.served.protocols import Asking, MalformedError, choose_protocol
from logitfusion.distill.served.server import Server
from logitfusion.distill.teacher import check_k
from logitfusion.distill.teacher_text import TeacherText, no_tokens
from logitfusion.distill.texts import EncodedText, text_digests
from logitfusion.errors import UserError


def cache_served(
    server: Server,
    served: Served,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int,
    texts: Sequence[EncodedText],
    folder: str | Path,
    *,
    source: dict[str, Any],
    k: int,
    rounding: Rounding = "fine",
    shards: int = 1,
    only: Iterable[int] | None = None,
    piece_tokens: int = PIECE_TOKENS,
    on_batch: Callable[[int], None] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> list[Path]:
    """``cache_teacher`` with a teacher that is served.

    Args:
        server: that has the teacher.
        served: what it says of the teacher; it stands in the manifest in place of the hash of the weights.
        tokenizer: the teacher's.
        vocabulary: its entries.
        texts, folder, k, rounding, shards, only, piece_tokens, on_batch, on_found: see ``cache_teacher``.
        source: the values of ``offline.SOURCE`` without ``model_hash``.

    Raises:
        UserError: also what a server refuses, and answers that can't be right.
    """
    check_k(vocabulary, k)
    asking = choose_protocol(server.options.protocol, tokenizer, vocabulary)
    _check_texts(texts, vocabulary, served, asking)
    reader = Reader(server, served, asking, Answers(tokenizer, vocabulary, k, asking.remedy), texts)
    teacher = {"model_hash": str(served), "vocabulary": vocabulary, "dtype": "served"}
    settings = {**source, **teacher, "k": k, "rounding": rounding}
    refuse_other_cache(folder, {**settings, "shards": shards})
    refuse_other_teacher(reader.read, texts, folder, settings)
    watched = Watched(reader.read, lambda: server.faults)
    teaching = Teaching(settings, partial(watched.read, on_text=on_batch))
    return write_cache(teaching, texts, folder, shards=shards, only=only, piece_tokens=piece_tokens, on_found=on_found)


def _check_texts(texts: Sequence[EncodedText], vocabulary: int, served: Served, asking: Asking) -> None:
    """Refuse texts that the served model can't read, before it is asked."""
    for number, text in enumerate(texts, 1):
        if max(text.ids) >= vocabulary:
            raise UserError(
                f"Text {number} has the token number {max(text.ids)}, and the teacher's config.json has only"
                f" {vocabulary}: its tokenizer is of another model, so use the folder of the model that is served."
            )
        if served.context is not None and len(text.ids) > served.context - asking.spare:
            most = served.context - asking.spare
            raise UserError(
                f"Text {number} has {len(text.ids)} tokens, and the server can be asked for {most} at most; lower"
                f" --max-tokens to {most}."
            )


class Reader:
    """A served teacher as what reads texts.

    Args:
        texts: all of the cache, which messages count from 1 on.
    """

    def __init__(
        self, server: Server, served: Served, asking: Asking, answers: Answers, texts: Sequence[EncodedText]
    ) -> None:
        self.server, self.served, self.asking, self.answers = server, served, asking, answers
        self._texts = texts

    def read(self, texts: Sequence[EncodedText], *, on_text: Callable[[int], None] | None = None) -> list[TeacherText]:
        """The teacher's predictions of texts, in their order; ``on_text`` gets the tokens of each that has come."""
        return asyncio.run(self._read_all(texts, on_text or (lambda _: None)))

    async def _read_all(self, texts: Sequence[EncodedText], on_text: Callable[[int], None]) -> list[TeacherText]:
        turns = asyncio.Semaphore(self.server.options.concurrency)
        url = f"{self.server.root if self.asking.native else self.server.address}{self.asking.path}"

        async def read(text: EncodedText) -> TeacherText:
            if not text.labels:
                return no_tokens(self.answers.k, text.digest)
            async with turns:
                title = partial(self._find_title, text)
                request = self.asking.request(text, self.answers.k, self.served.name)
                content = await self.server.ask(session, url, request, title, self.asking.remedy)
                found = self._assemble(content, text)
            on_text(len(found))
            return found

        async with self.server.session() as session:
            try:
                async with asyncio.TaskGroup() as group:  # which ends the others where one fails
                    reading = [group.create_task(read(text)) for text in texts]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return [task.result() for task in reading]

    def _find_title(self, text: EncodedText) -> str:
        """A text in messages; of millions, none is counted before that."""
        return f"text {[*text_digests(self._texts)].index(text.digest) + 1}"

    def _assemble(self, content: bytes, text: EncodedText) -> TeacherText:
        try:
            return self.answers.assemble(self.asking.read(content, text), text)
        except MalformedError as error:
            wrong = self.server.hide(str(error))
            raise UserError(f"The answer of {self.server.address} to {self._find_title(text)} {wrong}.") from None
        except ValidationError as error:
            wrong = explain(error, name=lambda where: f"its {where or 'content'}").rstrip(".")
            wrong = self.server.hide(wrong.removesuffix("; add it"))
            raise UserError(
                f"The answer of {self.server.address} to {self._find_title(text)} is none of the protocol"
                f" {self.server.options.protocol} ({wrong}); choose another --protocol."
            ) from None
