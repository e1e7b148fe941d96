"""The settings of a distillation in the form of transformers: TrainingArguments, and what of ours a student needs."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, make_dataclass
from typing import Annotated, Any, get_args, get_origin

from transformers import SchedulerType, TrainingArguments

from logitfusion.config.keywords import read_options
from logitfusion.config.meanings import read_meanings
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import TextFormat
from logitfusion.config.section import Section
from logitfusion.config.training import Training
from logitfusion.errors import UserError

# Whose fields are settings here, too: name, type, default and meaning stand there alone.
_OWN = {Objective: tuple(Objective.model_fields), TextFormat: tuple(TextFormat.model_fields), Training: ("max_tokens",)}


def _plain(annotation: Any) -> Any:
    """A type as ``HfArgumentParser`` reads it: without its range, and lists in place of tuples."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return list[_plain(get_args(annotation)[0])]
    if type(None) in get_args(annotation):
        (kind,) = (_plain(one) for one in get_args(annotation) if one is not type(None))
        return kind | None
    return annotation


def _field(section: type[Section], name: str) -> tuple[str, Any, Field]:
    own = section.model_fields[name]
    words = read_meanings(section)[name].replace("\n", " ").replace("%", "%%")  # argparse formats them
    return name, _plain(own.annotation), field(default=own.default, metadata={"help": words})


_FIELDS = [_field(section, name) for section, names in _OWN.items() for name in names]
_Own = make_dataclass("_Own", _FIELDS)


@dataclass
class DistillationConfig(_Own, TrainingArguments):
    """The settings of a ``DistillationTrainer``: transformers' ``TrainingArguments``, and those of the objective.

    ``HfArgumentParser(DistillationConfig)`` reads them from a command line. What begins otherwise than in transformers:
    the learning rate is ``cosine`` after a linear warm-up over a tenth of the steps, whose first update counts (in
    transformers it has a rate of 0); other schedules are transformers' own. Losses that are not finite are logged.

    Raises:
        UserError: a setting that can't be used.
    """

    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "Schedule of the learning rate; cosine's first warm-up step counts."}
    )
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of the linear warm-up, or their share if below 1."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the log."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing_factor:
            raise UserError("A student's labels are not smoothed; leave label_smoothing_factor out.")
        self.remove_unused_columns = False  # a text's columns are no arguments of the model
        for section in _OWN:
            self._read(section)  # checked before anything is loaded

    @property
    def objective(self) -> Objective:
        """What the student is trained on."""
        return self._read(Objective)

    @property
    def format(self) -> TextFormat:
        """How texts are written."""
        return self._read(TextFormat)

    def _read(self, section: type[Section]) -> Any:
        return read_options(section, {name: getattr(self, name) for name in _OWN[section]})


def own_settings(objective: Objective, training: Training) -> dict[str, Any]:
    """The settings that are not transformers', of sections."""
    sections = {Objective: objective, TextFormat: training, Training: training}
    return {name: getattr(sections[section], name) for section, names in _OWN.items() for name in names}


def _describe(name: str, kind: Any, own: Field) -> str:
    return f"        {name}: {own.metadata['help'].replace('%%', '%')} Default: ``{own.default!r}``.\n"


_MEANINGS = "    Args:\n" + "".join(_describe(*one) for one in _FIELDS) + "\n    Raises:"
DistillationConfig.__doc__ = DistillationConfig.__doc__.replace("    Raises:", _MEANINGS, 1)
