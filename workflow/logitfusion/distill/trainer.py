"""A Trainer of students: transformers' own, with the objective of distillation as its loss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_pt_utils import BatchRebalanceSampler
from transformers.trainer_utils import EvalLoopOutput

from logitfusion.config.training import Recipe
from logitfusion.distill.arguments import DistillationConfig
from logitfusion.distill.encoding import EncodedText, encode_texts
from logitfusion.distill.objective import CachedTeacher, Teacher
from logitfusion.distill.on_policy import OwnAnswers, own_answers
from logitfusion.distill.predictions import IGNORED
from logitfusion.distill.rows import (
    DistillationCollator,
    FilledUp,
    PairedTexts,
    pair_held_out,
    pair_texts,
    read_texts,
    refuse_stream,
)
from logitfusion.distill.sources import Source
from logitfusion.distill.step import PARTS, gradient_norms, labels_alone, objective_loss, read_teachers
from logitfusion.distill.teachers import Named, check_teachers, open_teacher, share_vocabularies
from logitfusion.errors import UserError
from logitfusion.models.adapters import load_expert
from logitfusion.models.examples import ExampleEncoder, Text
from logitfusion.models.load import load_tokenizer
from logitfusion.training.loop import StepTrainer, as_first_says
from logitfusion.training.padding import plan_padding
from logitfusion.training.sharding import part_again

logger = logging.getLogger(__name__)

Measure = Callable[[PreTrainedModel], Mapping[str, float]]
Rows = Iterable[Mapping[str, Any]]  # a datasets.Dataset, or a list


class DistillationTrainer(StepTrainer):
    """Trains a student on its own labels and on what teachers predict of the same texts.

    All parts of the loss are divided by the numbers of the whole optimiser step, so accumulation, several processes and
    a last, shorter batch give what one large batch gives. ``evaluate()`` gives the loss and its parts over all texts,
    as of one batch, too.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel | str | Path,
        args: DistillationConfig,
        *,
        train_dataset: Rows | PairedTexts | None = None,
        eval_dataset: Rows | PairedTexts | Mapping[str, Rows | PairedTexts] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teachers: Mapping[str, Named] | None = None,
        peft_config: PeftConfig | None = None,
        measure: Measure | None = None,
        data_collator: DistillationCollator | None = None,
        answers: OwnAnswers | None = None,
        **others: Any,
    ) -> None:
        """Read and pair all texts.

        Args:
            model: the student, or its folder, which is read in fp32 (with ``peft_config`` in its own precision).
            args: settings of transformers and of the objective.
            train_dataset: rows of ``prompt`` and ``response`` (or ``completion``), or of ``messages``.
            eval_dataset: the same, maybe several by name. Where a teacher's cache lacks them, the loss of the labels
                alone is what they are evaluated by.
            processing_class: the student's tokenizer, a fast one; left out, that of its folder.
            teachers: name -> a model and its tokenizer, the folder of a model or of a cache, an open cache, or a
                ``Source``. Models read each batch as it is learned, texts in the form of ``args``; none for plain SFT.
            peft_config: trains new adapters of this form.
            measure: further metrics of the student at each evaluation, by name; called in every process.
            data_collator: of rows that are paired already; then ``teachers`` are sources, and no tokenizer is needed.
            answers: of rows that are paired already, with ``on_policy`` above 0.
            others: of ``transformers.Trainer``: ``callbacks``, ``optimizers``.

        Raises:
            UserError: texts, teachers or settings that can't be used, or don't fit together.
        """
        _refuse(args, teachers, others)
        refuse_stream(train_dataset, "train_dataset")
        if args.on_policy and args.fsdp:
            raise UserError("A student that is parted among processes can't answer; leave fsdp out, or on_policy at 0.")
        args._n_gpu = min(args.n_gpu, 1)  # a process that sees several GPUs would cut a batch among them
        if isinstance(model, str | Path):
            processing_class = processing_class or load_tokenizer(model)
            model = load_expert(model, merge=True, device=args.device, dtype="auto" if peft_config else torch.float32)
        super().__init__(
            model=model if peft_config is None else _adapt(model, peft_config, args),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            **others,
        )
        self.objective, self.measure, self.answers, self.own = args.objective, measure, answers, False
        self.parts, self.steps, self.weighed = dict.fromkeys(PARTS, 0.0), set[int](), False
        if data_collator is None:
            _warn_of_halves(self.model)
            self._read_texts(teachers or {})
        else:
            self.sources: dict[str, Source] = dict(teachers or {})

    def _read_texts(self, teachers: Mapping[str, Named]) -> None:
        """Pair the texts of all data sets with the teachers', and plan how they are padded."""
        if self.processing_class is None:
            raise UserError("A student's texts need its tokenizer; give processing_class.")
        several = isinstance(self.eval_dataset, Mapping)
        held_out = self.eval_dataset if several else {"eval_dataset": self.eval_dataset}
        texts = {
            name: read_texts(rows, name or "train_dataset")
            for name, rows in {None: self.train_dataset, **held_out}.items()  # held-out ones may have any name
            if rows is not None
        }
        every = [text for some in texts.values() for text in some]
        self.sources = {
            name: open_teacher(name, given, every, self.args, self.args.device) for name, given in teachers.items()
        }
        check_teachers(self.sources, self.objective, self._base, self.processing_class, "of this training")
        encoded = {name: self._encode(some) for name, some in texts.items()}
        first = next(iter(encoded.values()), [])  # the learned texts, if there are any
        share_vocabularies(self.sources, self.objective, self._base, self.processing_class, first)
        paired = {name: self._pair(some, held_out=name is not None) for name, some in encoded.items()}
        self._plan_batches(chain.from_iterable(some.rows.unpaired() for some in paired.values()))
        self.train_dataset = paired.pop(None, None)
        self.eval_dataset = paired if several else paired.get("eval_dataset")

    def _encode(self, texts: Sequence[Text]) -> Sequence[EncodedText]:
        form, limit = self.args.format, self.args.max_tokens
        return encode_texts(self.processing_class, texts, template=form.template, system=form.system, max_tokens=limit)

    def _pair(self, texts: Sequence[EncodedText], *, held_out: bool) -> PairedTexts:
        pair = pair_held_out if held_out else pair_texts
        return PairedTexts(pair(texts, self.sources, self.objective.alignment))

    def _plan_batches(self, rows: Iterable[dict[str, Any]]) -> None:
        """A collator that pads as the student reads it; if it reads no padding, one text at a time is read."""
        args, size = self.args, self.args.per_device_train_batch_size
        recipe = Recipe(batch_size=size, micro_batch=size)
        padding = plan_padding(self._base, self.processing_class, rows, recipe, "the student")
        if padding.recipe.micro_batch < size:
            args.gradient_accumulation_steps *= size
            args.per_device_train_batch_size = self._train_batch_size = 1
        if padding.alone:
            args.per_device_eval_batch_size = 1
        self.data_collator = DistillationCollator(padding.pad, list(self.sources.values()))
        encoder = ExampleEncoder(self.processing_class, args.format)
        self.answers = own_answers(self.objective, encoder, self.data_collator, args.seed)

    def _get_train_sampler(self, train_dataset: PairedTexts | None = None) -> Sampler | None:
        order = super()._get_train_sampler(train_dataset)
        if isinstance(order, RandomSampler):  # the same in all processes
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            order = SeedableRandomSampler(order.data_source, generator=torch.Generator(), data_seed=seed)
        if isinstance(order, BatchRebalanceSampler) or self.args.dataloader_drop_last or self.args.world_size == 1:
            return order
        return FilledUp(order, self._train_batch_size * self.args.world_size)

    def _get_eval_sampler(self, eval_dataset: PairedTexts) -> Sampler | None:
        order, processes = SequentialSampler(eval_dataset), self.args.world_size
        if processes == 1 and not self.args.dataloader_drop_last:  # which is of the training, and would drop texts here
            return order
        return FilledUp(order, self.args.eval_batch_size * processes)

    def get_eval_dataloader(self, eval_dataset: str | Rows | PairedTexts | None = None) -> DataLoader:
        """See transformers; rows of texts are paired first."""
        return super().get_eval_dataloader(self._paired(eval_dataset))

    def get_test_dataloader(self, test_dataset: Rows | PairedTexts) -> DataLoader:
        """See transformers; rows of texts are paired first."""
        return super().get_test_dataloader(self._paired(test_dataset))

    def _paired(self, rows: str | Rows | PairedTexts | None) -> str | PairedTexts | None:
        if rows is None or isinstance(rows, str | PairedTexts):
            return rows
        return self._pair(self._encode(read_texts(rows, "the data set")), held_out=True)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro-batches of a step, and its labels and texts in all processes, which its parts are divided by."""
        batches = list(islice(epoch_iterator, num_batches))
        step, rank = self.state.global_step, self.args.process_index
        self.own = self.answers is not None and self.answers.drawn(step)
        if self.own:
            written = (self.answers.write(self._base, one, (step, rank, place)) for place, one in enumerate(batches))
            batches = list(map(self._prepare_inputs, written))
        counts = sum((_count(batch["labels"]) for batch in batches), torch.zeros(2, dtype=torch.int64, device=device))
        return batches, self.accelerator.reduce(counts)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The share of a micro-batch in the loss of its step."""
        logits, labels, teachers = self._read(model, inputs)
        self.steps.add(self.state.global_step)
        if not _count(labels)[0]:  # blank rows alone
            return (logits * 0).sum()
        if teachers and not self.weighed:
            self.weighed = True
            norms = gradient_norms(self.objective, logits, labels, teachers)
            logger.info("gradient norms of the parts at the first logits: %s", norms)
        tokens, texts = num_items_in_batch.tolist()
        counts = {"tokens": tokens, "texts": texts} | ({"sft_weight": 0.0} if self.own else {})
        loss = objective_loss(self.objective, logits, labels, teachers, **counts)
        processes = self.accelerator.num_processes
        for part in PARTS:
            self.parts[part] += processes * getattr(loss, part).item()
        return processes * loss.total  # gradients are averaged over processes, and this is a share of a sum

    def _read(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, list[Teacher | CachedTeacher]]:
        """The student's logits of a batch, its labels, and what teachers predict."""
        labels, columns = inputs.pop("labels"), inputs.pop("teachers")
        logits = self.kept_logits(model, inputs)
        return logits, labels, read_teachers(list(self.sources.values()), columns, self.objective) if columns else []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss, means since the last line, over all processes."""
        if "loss" in logs:
            means = self._reduce(self.parts, "mean")
            logs |= {part: total / len(self.steps) for part, total in means.items()}
            self.parts, self.steps = dict.fromkeys(PARTS, 0.0), set()
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: DataLoader, *arguments: Any, metric_key_prefix: str = "eval", **options: Any
    ) -> EvalLoopOutput:
        """The loss and its parts over all texts, as of one batch, and what ``measure`` finds."""
        self._held_out, self._totals = dataloader.dataset, dict.fromkeys(("loss", *PARTS), 0.0)
        found = super().evaluation_loop(dataloader, *arguments, metric_key_prefix=metric_key_prefix, **options)
        part_again(self.model)
        totals = self._reduce(self._totals, "sum")
        terms = [part for part in PARTS[1:] if getattr(self.objective, part)] if self._held_out.paired else []
        metrics = {name: totals[name] for name in ("loss", "sft", *terms)}
        if self.measure is not None:
            metrics |= as_first_says(dict(self.measure(self.model)))
        found.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return found

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        """Adds the share of a batch to the totals of its data set."""
        with torch.no_grad(), self.compute_loss_context_manager():
            logits, labels, teachers = self._read(model, self._prepare_inputs(inputs))
            if _count(labels)[0]:
                objective = self.objective if teachers else labels_alone(self.objective)
                counts = {"tokens": self._held_out.tokens, "texts": len(self._held_out)}
                loss = objective_loss(objective, logits, labels, teachers, **counts)
                for name in self._totals:
                    self._totals[name] += getattr(loss, "total" if name == "loss" else name).item()
        return None, None, None

    def _reduce(self, values: dict[str, float], how: str) -> dict[str, float]:
        """The sums or means over all processes."""
        if self.accelerator.num_processes == 1:
            return values
        found = torch.tensor(list(values.values()), dtype=torch.float64, device=self.args.device)
        return dict(zip(values, self.accelerator.reduce(found, how).tolist(), strict=True))


def _refuse(args: Any, teachers: Any, others: Mapping[str, Any]) -> None:
    """Refuse what transformers' Trainer takes and this one would not heed, and what has not the form that it needs.

    Raises:
        UserError: says what to give instead.
    """
    if not isinstance(args, DistillationConfig):
        raise UserError(f"args is a DistillationConfig, which has the settings of the loss, not {type(args).__name__}.")
    if not isinstance(teachers, Mapping | None):
        raise UserError(f"teachers is a dict of name and teacher, not {type(teachers).__name__}.")
    if others.get("compute_loss_func") is not None:
        raise UserError("The loss of a student is the settings'; leave compute_loss_func out.")
    for name in ("compute_metrics", "preprocess_logits_for_metrics"):
        if others.get(name) is not None:
            raise UserError(f"A student's logits are not kept for {name}; give measure, a function of the model.")


def _adapt(model: PreTrainedModel, form: PeftConfig, args: DistillationConfig) -> PeftModel:
    """The model with new adapters, whose first values are of the settings' seed."""
    if isinstance(model, PeftModel):
        raise UserError("The student has adapters already; leave peft_config out to train them.")
    set_seed(args.seed)
    return get_peft_model(model, form)


def _warn_of_halves(model: nn.Module) -> None:
    """Say where weights that are trained have too few digits to be trained by small steps."""
    trained = {value.dtype for value in model.parameters() if value.requires_grad}
    for dtype in trained & {torch.bfloat16, torch.float16}:
        kind = str(dtype).removeprefix("torch.")
        logger.warning(
            "the student's weights are trained in %s, where small steps are lost to rounding: load it with"
            " dtype=torch.float32 (and set bf16=True for products in bf16), or train adapters",
            kind,
        )


def _count(labels: Tensor) -> Tensor:
    """How many labels count, and how many texts have one, ``[2]``; nothing predicts the first column."""
    counted = labels[:, 1:] != IGNORED
    return torch.stack([counted.sum(), counted.any(1).sum()])
