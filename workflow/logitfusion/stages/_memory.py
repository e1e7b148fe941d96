"""What to change in the config where memory is used up: a sentence for each stage."""

from __future__ import annotations

from typing import Literal

_DECODING = ("set batch_size: auto, which is halved until it fits, or dtype: bfloat16", "raise gpus")
_READING = ("set cache.batch_size: auto, which is halved until it fits, or cache.precision: bf16", "raise cache.gpus")
_SHARDED = "set sharded: true with several processes"
_HEALING = ("set gradient_checkpointing: true, which changes no result, or lower micro_batch", _SHARDED)
_TRAINING = (f"{_HEALING[0]} or method: lora", _SHARDED)
_FEATURES = ("lower batch_size", "")
# Stage -> what to change, and what else where there are GPUs.
_ADVICE = {
    "decode": _DECODING,
    "tune": _DECODING,
    "teacher_cache": _READING,
    "model": _HEALING,
    "expert": _TRAINING,
    "student": _TRAINING,
    "clip_encoder": _FEATURES,
    "clip_features": _FEATURES,
    "clip_fit": _FEATURES,
}


def advise(stage: str, whose: Literal["machine", "gpu"]) -> str:
    """The sentence about a stage that ran out of the machine's memory or its GPU's."""
    change, more = _ADVICE.get(stage, ("", ""))
    if whose == "machine":
        return f"There is not enough memory; {_join(change, 'give the job more (mem_mb)')}."
    larger = "use a larger GPU (`logitfusion plan` says what fits)"
    return f"The GPU's memory is used up; {_join(change, more, larger)}."


def _join(*parts: str) -> str:
    return ", or ".join(part for part in parts if part)
