"""Teachers as a command line names them: models that read online, and caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.config.distill import StudentTraining
    from logitfusion.config.loading import Dtype
    from logitfusion.config.objective import Objective
    from logitfusion.distill.sources import Source
    from logitfusion.models.examples import Text


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher of the command line.

    Attributes:
        name: its name.
        folder: of the model, or of the cache.
        online: whether it is a model.
    """

    name: str
    folder: Path
    online: bool

    @classmethod
    def read(cls, word: str, option: str) -> Self:
        """The teacher of a word ``NAME=DIR``; without a name its folder's own is taken.

        Raises:
            UserError: there is no such folder.
        """
        name, named, folder = word.partition("=")
        path = Path(folder if named else word)
        if not path.is_dir():
            raise UserError(f"{option} {word}: the folder {path} does not exist.")
        return cls(name if named else path.resolve().name, path, option == "--teacher")

    @cached_property
    def shards(self) -> list[Path]:
        """The files of its cache, if that is what it is.

        Raises:
            UserError: the folder holds none.
        """
        from logitfusion.distill.cache import find_shards

        return [] if self.online else find_shards(self.folder)

    def describe(self) -> dict[str, str | None]:
        """What is read of it, for the record of a student."""
        from logitfusion.models.identity import hash_model

        return {"name": self.name, "model": hash_model(self.folder) if self.online else None}

    def open(self, texts: Sequence[Text], objective: Objective, training: StudentTraining, dtype: Dtype) -> Source:
        """Its predictions of texts.

        Args:
            texts: that are learned or held out.
            objective: of the student.
            training: of the student, for the form of the texts.
            dtype: of the weights of a model that reads online.

        Raises:
            UserError: a model or a cache that can't be used.
        """
        from logitfusion.config.prompting import TextFormat
        from logitfusion.distill.cache import TeacherCache
        from logitfusion.distill.sources import CachedSource, open_online

        if not self.online:
            return CachedSource(TeacherCache(self.shards))
        form, limit = training.part(TextFormat), training.max_tokens
        return open_online(self.name, self.folder, texts, objective, text_format=form, max_tokens=limit, dtype=dtype)
