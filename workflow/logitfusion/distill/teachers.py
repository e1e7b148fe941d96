"""Teachers as users name them: a model and its tokenizer, a folder of one, or a cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.objective import TERMS, Objective
from logitfusion.distill.arguments import DistillationConfig
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import EncodedText, encode_texts
from logitfusion.distill.sources import CachedSource, OnlineSource, Source
from logitfusion.distill.vocabulary import Vocabulary
from logitfusion.errors import UserError
from logitfusion.models.adapters import load_expert
from logitfusion.models.architecture import count_vocabulary
from logitfusion.models.checkpoint import is_adapter
from logitfusion.models.examples import Text
from logitfusion.models.forward import check_texts
from logitfusion.models.load import load_tokenizer

logger = logging.getLogger(__name__)

Named = Source | TeacherCache | str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase]


def check_teachers(
    teachers: Mapping[str, Source],
    objective: Objective,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> None:
    """Refuse teachers that an objective can't be computed with; ``student`` is the model that ``name`` trains.

    Raises:
        UserError: names the student, or the teacher.
    """
    if (objective.taught > 0) != bool(teachers):
        terms = f"a factor {', '.join(TERMS[:-1])} or {TERMS[-1]}"
        raise UserError(f"A student needs both teachers and {terms} above 0, or neither (plain SFT).")
    if objective.weights is not None and len(objective.weights) != len(teachers):
        raise UserError(f"There are {len(teachers)} teachers and {len(objective.weights)} weights; give one for each.")
    if objective.entries > count_vocabulary(student):
        raise UserError(f"k is {objective.k}, and the student {name} has {count_vocabulary(student)} tokens; lower k.")
    trained = {id(weight) for weight in student.parameters() if weight.requires_grad}
    for teacher, source in teachers.items():
        source.check(teacher, objective, tokenizer)
        if isinstance(source, OnlineSource) and any(id(weight) in trained for weight in source.model.parameters()):
            raise UserError(
                f"Teacher {teacher!r} has the student's own weights and would change with them, so there is nothing to"
                " learn from it; give a copy of the model (copy.deepcopy), or its folder."
            )
        if objective.on_policy and not isinstance(source, OnlineSource):
            raise UserError(
                f"The cache of teacher {teacher!r} does not know what the student will say; with on_policy above 0 give"
                " its model, which reads online."
            )


def share_vocabularies(
    teachers: Mapping[str, Source],
    objective: Objective,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[EncodedText],
) -> None:
    """Find the tokens that the student shares with each teacher, where an objective names them.

    Raises:
        UserError: a teacher whose tokens are not known.
    """
    if objective.hybrid:
        own = Vocabulary.of(tokenizer, count_vocabulary(student), texts)
        for teacher, source in teachers.items():
            shared = source.share(teacher, own)
            counts = len(shared.student), len(shared.places)
            logger.info("teacher %s: %d of its %d tokens are the student's as well", teacher, *counts)


def _is_pair(given: Any) -> bool:
    kinds = PreTrainedModel | PeftModel, PreTrainedTokenizerBase
    return isinstance(given, tuple | list) and len(given) == 2 and all(map(isinstance, given, kinds))


def open_teacher(
    name: str, given: Named, texts: Sequence[Text], settings: DistillationConfig, device: torch.device
) -> Source:
    """Where a teacher's predictions of these texts are from.

    Args:
        name: for messages.
        given: a source is taken as it is; a model is moved to ``device`` unless it has a device map.
        texts: all that it will be asked for.

    Raises:
        UserError: it is none of these, or can't be read.
    """
    if isinstance(given, TeacherCache):
        return CachedSource(given)
    if isinstance(given, str | Path):
        if not Path(given).is_dir():
            raise UserError(f"Teacher {name!r}: there is no folder {given}; give one, or a model and its tokenizer.")
        if not is_adapter(given) and not (Path(given) / "config.json").exists():
            return CachedSource(TeacherCache(find_shards(given)))
        given = load_expert(given, device=device, dtype="auto"), load_tokenizer(given)
    if isinstance(given, Source):
        return given
    if not _is_pair(given):
        alone = isinstance(given, nn.Module)
        found = "a model alone" if alone else f"neither a folder nor a model ({type(given).__name__})"
        raise UserError(f"Teacher {name!r} is {found}; give a model with its tokenizer: (model, tokenizer).")
    model, tokenizer = given
    if getattr(model, "hf_device_map", None) is None and getattr(model, "quantization_method", None) is None:
        model.to(device)
    form, limit = settings.format, settings.max_tokens
    encoded = encode_texts(tokenizer, texts, template=form.template, system=form.system, max_tokens=limit)
    check_texts(model, [text.ids for text in encoded], f"teacher {name!r}", "max_tokens")
    return OnlineSource(model, tokenizer, encoded, settings.objective, form)
