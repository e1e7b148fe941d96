"""How texts are decoded: what a config says once for all tasks, and what a call says."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from logitfusion.config.section import BatchSize, Listed, PositiveShare, Section, Seed, Whole


def _list_texts(value: Any) -> Any:
    """A single text counts as a list of one."""
    return (value,) if isinstance(value, str) else value


def _check_stop(text: str) -> str:
    if not text:
        raise PydanticCustomError("cross", "has an empty stop string, which would end every text at once", {})
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or bytes of a command line that are no characters
        raise PydanticCustomError("cross", "has a stop string with characters that are not Unicode", {}) from None
    return text


def _not_icy(value: float) -> float:
    if 0 < value < 1e-6:
        raise PydanticCustomError("cross", "must be 0 (the likeliest token) or at least 1e-06", {})
    return value


# Logits that are divided by it stay far from float32's end.
Temperature = Annotated[float, Field(ge=0, le=1e6), AfterValidator(_not_icy)]


class TaskDecoding(Section):
    """How the texts of tasks are decoded, whatever a task says of its texts."""

    batch_size: BatchSize = 32
    """Prompts (or pairs that are scored) computed together; auto halves it where the memory is used up."""
    speculative: bool = False
    """An expert drafts, the other models verify: greedy texts are the same, in fewer passes of the large model."""
    seed: Seed | None = None
    """Of the draws, prompt number i draws with seed + i; left out, a config's top-level seed, else a random one."""


class TaskSampling(Section):
    """What replaces the sampling that the tasks' own generation_kwargs ask for; null keeps theirs."""

    temperature: Temperature | None = None
    """Replaces the tasks' own and their do_sample: 0 takes the likeliest token, else fused logits are divided by it."""
    top_p: PositiveShare | None = None
    """Replaces the tasks' own: nucleus sampling, among the likeliest tokens of at least this probability together."""
    top_k: Whole | None = None
    """Replaces the tasks' own: among so many of the likeliest tokens; 0: all. Where nobody says, 50 (transformers)."""

    @property
    def generation_kwargs(self) -> dict[str, Any]:
        """What is merged into those of a task."""
        given = {name: value for name in TaskSampling.model_fields if (value := getattr(self, name)) is not None}
        return given if self.temperature is None else given | {"do_sample": self.temperature > 0}


class Decoding(TaskDecoding):
    """How all texts of a call are decoded."""

    temperature: Temperature = 0.0
    """0 takes the likeliest token, else the fused logits are divided by it before a token is drawn."""
    top_p: PositiveShare = 1.0
    """Nucleus sampling: among the likeliest tokens of at least this probability together; 1: all."""
    top_k: Whole = 0
    """Sampling among so many of the likeliest tokens; 0: all."""


class DecodingOptions(Decoding):
    """All options of ``FusedLM.generate``."""

    max_new_tokens: Whole = 256
    """The most tokens of a continuation."""
    stop: Annotated[Listed[Annotated[str, AfterValidator(_check_stop)]], BeforeValidator(_list_texts)] = ()
    """A continuation ends before the first of these texts, which special tokens may be part of."""
    draft_tokens: Whole | None = None
    """Tokens of a speculative draft; left out, it adapts to how many are accepted."""


# The defaults, for signatures that take some of these options by name.
DECODING = Decoding()
