"""Where a training has its teachers' predictions from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.objective import CachedTeacher, Teacher
from logitfusion.distill.shared import SharedTokens
from logitfusion.distill.sources.cached import CachedSource
from logitfusion.distill.sources.online import OnlineSource, open_online
from logitfusion.distill.vocabulary import Vocabulary


@runtime_checkable
class Source(Protocol):
    """One teacher's predictions of texts, in the teacher's own tokens; it numbers its texts from 0 on.

    The data loader asks for ``collate``, maybe in a process of its own; the training for ``read``, on its device.
    """

    def check(self, name: str, objective: Objective, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a teacher that lacks what an objective needs; ``tokenizer`` is the student's.

        Raises:
            UserError: names the teacher.
        """

    def share(self, name: str, student: Vocabulary) -> SharedTokens:
        """Find the tokens that the student has as well, which ``read`` then says; for the term hybrid.

        Raises:
            UserError: names the teacher, whose tokens are not known.
        """

    def match(self, name: str, texts: Sequence[EncodedText]) -> Sequence[int]:
        """The number that each of the student's texts has here.

        Raises:
            UserError: names the teacher, and a text that is not here.
        """

    def ends(self, number: int) -> Sequence[int]:
        """For each token of a text's response, the byte where it ends, as ``EncodedText.ends``."""

    def collate(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """What ``read`` needs of a batch of texts, on the CPU; ``counts [B]`` are the tokens of their responses."""

    def read(self, columns: dict[str, Tensor], groups: Tensor, weight: float) -> Teacher | CachedTeacher:
        """The teacher of a batch.

        Args:
            columns: of ``collate``, on the student's device.
            groups: positions that belong together, counted over the batch, see ``CachedTeacher``.
            weight: the teacher's.
        """


__all__ = ["CachedSource", "OnlineSource", "Source", "open_online"]
