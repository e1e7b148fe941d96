"""Slices of the config for teachers' caches, students and their answers."""

from __future__ import annotations

from typing import Any

from logitfusion.config.decoding import TaskDecoding
from logitfusion.config.distill import CacheContents, DistillMethod, StudentTraining, Teacher, TeacherReading
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.jobs.fusion import DecodedMethod, DecodeJob, decoded_task
from logitfusion.config.jobs.protocol import confirmed_comparison
from logitfusion.config.loading import Loading
from logitfusion.config.methods import answered_tasks, evaluated_tasks
from logitfusion.config.prompting import Prompting, TextFormat
from logitfusion.config.run import RunConfig
from logitfusion.config.section import BatchSize, Count, Section, Whole
from logitfusion.config.training import LoRA


class TeacherJob(CacheContents, TextFormat):
    """Let a teacher read one shard of the texts."""

    texts: Count | None


class MeasuredTask(Section):
    """A task that students answer while they are trained."""

    num_fewshot: Whole | None
    """Examples in each prompt; null: as its definition says."""
    generation_kwargs: dict[str, Any]
    """Merged into those of its definition."""
    metric: str | None
    """Null: the first of its definition."""


class Answering(Section):
    """How students answer while they are trained."""

    prompting: Prompting
    batch_size: BatchSize
    tasks: dict[str, MeasuredTask]


class OnlineTeacher(TeacherReading, TextFormat):
    """A teacher that reads while the student learns."""

    model: str


class StudentJob(Section):
    """Train the student once."""

    method: DistillMethod
    training: StudentTraining
    texts: Count | None
    answering: Answering | None = None
    """None where no task is answered meanwhile."""
    online: dict[str, OnlineTeacher] = {}
    """The method's teachers that have no cache."""


def teacher_job(run: RunConfig, teacher: str) -> TeacherJob:
    """How a teacher reads, and what is kept."""
    entry = run.distill.teachers[teacher]
    contents = {**dict(run.distill.cache.part(CacheContents)), **dict(entry.part(TextFormat))}
    return TeacherJob(texts=run.distill.texts, **contents)


def student_job(run: RunConfig, method: str) -> StudentJob:
    """A method and the training, without the settings of LoRA where it is in full."""
    training = run.distill.training
    if training.method == "full":
        training = training.model_copy(update={"lora": LoRA()})
    entry, reading = run.distill.methods[method], dict(run.distill.cache.part(TeacherReading))
    online = {
        name: OnlineTeacher(model=teacher.model, **reading, **dict(teacher.part(TextFormat)))
        for name, teacher in online_teachers(run, method).items()
    }
    return StudentJob(
        method=entry,
        training=training,
        texts=run.distill.texts,
        online=online,
        answering=_answering(run, evaluated_tasks(run)),
    )


def _answering(run: RunConfig, tasks: list[str]) -> Answering | None:
    """As students answer when they are trained."""
    if not tasks:
        return None
    prompting = run.distill.part(Prompting)
    decoded = {task: decoded_task(run, task, [run.distill.student], prompting) for task in tasks}
    return Answering(
        prompting=prompting,
        batch_size=run.distill.batch_size,
        tasks={
            task: MeasuredTask(
                num_fewshot=one.num_fewshot, generation_kwargs=one.generation_kwargs, metric=run.tasks[task].metric
            )
            for task, one in decoded.items()
        },
    )


def online_teachers(run: RunConfig, method: str) -> dict[str, Teacher]:
    """The teachers of a method that read while the student learns."""
    return {name: teacher for name, teacher in _teachers(run, method).items() if teacher.online}


def offline_teachers(run: RunConfig, method: str) -> dict[str, Teacher]:
    """The teachers of a method that have a cache."""
    return {name: teacher for name, teacher in _teachers(run, method).items() if not teacher.online}


def _teachers(run: RunConfig, method: str) -> dict[str, Teacher]:
    return {name: run.distill.teachers[name] for name in run.distill.methods[method].teachers}


def answer_job(run: RunConfig, name: str) -> DecodeJob:
    """One model alone on the tasks of distillation."""
    prompting = run.distill.part(Prompting)
    answering = DecodedMethod(
        options=FusionOptions(),
        prompting=prompting,
        decoding=TaskDecoding(batch_size=run.distill.batch_size, seed=0),
        tasks={task: decoded_task(run, task, [name], prompting) for task in answered_tasks(run)},
    )
    return DecodeJob(
        methods={name: answering},
        loading=run.distill.part(Loading),
        split=run.distill.split,
        shards=1,
        comparison=confirmed_comparison(run, run.distill.split),
    )
