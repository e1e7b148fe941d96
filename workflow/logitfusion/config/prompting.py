"""How texts are put to models: as they are, or as chats; with examples in the prompt, or without."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.section import Section, Shots

Template = Literal["plain", "chat"]


class TextFormat(Section):
    """How a prompt and its response, or the messages of a chat, become one text."""

    template: Template = "plain"
    """The texts as they are, or a chat in the template of the model's own tokenizer."""
    system: str | None = None
    """Of template: chat, the system's message before all others, where a chat has none of its own."""

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.template == "plain" and self.system:
            raise PydanticCustomError("cross", "is a message of a chat; set template: chat, too", {"key": "system"})
        return self


class Prompting(TextFormat):
    """How the documents of a task are put to a model that decodes them."""

    num_fewshot: Shots | None = None
    """Examples before each document; null: the number of the task."""
    fewshot_as_multiturn: bool = False
    """Of template: chat, examples as turns of the chat, instead of a text before the document's."""

    @model_validator(mode="after")
    def _check_turns(self) -> Self:
        if self.template == "plain" and self.fewshot_as_multiturn:
            raise PydanticCustomError(
                "cross", "makes turns of a chat; set template: chat, too", {"key": "fewshot_as_multiturn"}
            )
        return self


class MethodPrompting(Section):
    """What one method of a track says otherwise."""

    template: Template | None = None
    """The track's when left out."""
    system: str | None = None
    """The track's when left out; an empty text is none."""
    num_fewshot: Shots | None = None
    """The track's when left out."""
    fewshot_as_multiturn: bool | None = None
    """The track's when left out."""

    def complete(self, track: Prompting) -> Prompting:
        """What holds for the method: its own keys, else the track's.

        A method of ``template: plain`` needs neither the system nor the turns of a track that chats.
        """
        own: dict[str, Any] = {name: getattr(self, name) for name in Prompting.model_fields}
        inherited = dict(track.part(Prompting))
        if self.template == "plain":
            inherited |= {"system": None, "fewshot_as_multiturn": False}
        given = {name: value for name, value in own.items() if value is not None}
        return Prompting.model_validate(inherited | given)
