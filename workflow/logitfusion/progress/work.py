"""Rough seconds of every stage by counted work, for a machine that has measured nothing yet.

The constants are of two shared cores of a laptop's kind and of models of about a hundred million parameters, because
the size of a model is not known before it is there. They are good for a first guess between half and twice the time;
from the first run on, what was measured counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from logitfusion.config.experts import TrainedExpert
from logitfusion.config.jobs.distill import answer_job, online_teachers
from logitfusion.config.jobs.fusion import DecodeJob, decode_job, decoded_method, tune_job
from logitfusion.config.methods import task_methods
from logitfusion.config.models import PrunedModel, RandomModel
from logitfusion.config.run import RunConfig

LOAD = 6.0  # imports, reading models
TRAINED = 0.1  # a training sequence, forth and back
READ = 0.05  # a sequence that is read once
TOKEN = 0.015  # a generated token, of each model that takes part
WAYS = 3  # to steer, that are compared by decoding: the large model alone, the best fixed weight, the best of all
IMAGE = 0.02  # a view of an image through an encoder
FIT = 1.0  # a few-shot head
CLASSES, IMAGES = 15, 1000  # of a data set that is not unpacked yet
DOCUMENTS, ANSWER = 1000, 10  # of a task that says nothing of its size, and tokens of one of its texts
USUAL = 5.0  # plots, tables, files

Wildcards = Mapping[str, str]


def rough_seconds(run: RunConfig, rule: str, wildcards: Wildcards) -> float:
    """What a job would take; a stage without a formula is one of small files."""
    return _STAGES[rule](run, wildcards) if rule in _STAGES else USUAL


def _size(run: RunConfig, name: str) -> float:
    """Of a model, in those that the constants are of: a tiny random one is almost nothing, a pruned one is a part."""
    if name in run.experts:
        return _size(run, run.experts[name].base)
    match run.models.get(name):
        case RandomModel():
            return 0.05
        case PrunedModel() as entry:
            return 0.5 * _size(run, entry.from_)
    return 1.0


def _model(run: RunConfig, wildcards: Wildcards) -> float:
    entry = run.models[wildcards["model"]]
    size = _size(run, wildcards["model"])
    healing = getattr(entry, "heal", None)
    if healing is None:
        return LOAD + 10 * size
    steps = healing.count_steps(sum(run.tasks[task].train for task in healing.tasks))
    return LOAD + TRAINED * steps * healing.batch_size * (size + _size(run, entry.from_)) / 2


def _expert(run: RunConfig, wildcards: Wildcards) -> float:
    entry = run.experts[wildcards["expert"]]
    if not isinstance(entry, TrainedExpert):
        return LOAD
    steps = entry.count_steps(sum(run.tasks[task].train for task in entry.tasks))
    return LOAD + TRAINED * steps * entry.batch_size * _size(run, entry.base)


def _tune(run: RunConfig, wildcards: Wildcards) -> float:
    job = tune_job(run, wildcards["method"])
    read = sum(run.tasks[task].validation * _sizes(run, entry.models) for task, entry in job.tasks.items())
    decoded = 0.0
    if job.tune.criterion == "metric":
        method = decoded_method(run, wildcards["method"], job.tasks)
        whole = DecodeJob(methods={"": method}, loading=job.loading, split="validation", shards=1)
        decoded = WAYS * _generation(run, whole)
    return 2 * LOAD + READ * read + decoded


def _sizes(run: RunConfig, models: Iterable[str]) -> float:
    return sum(_size(run, name) for name in models)


def _generation(run: RunConfig, job: DecodeJob) -> float:
    tokens = sum(
        math.ceil((getattr(run.tasks[task], job.split) or DOCUMENTS) / job.shards)
        * entry.generation_kwargs.get("max_gen_toks", ANSWER)
        * _sizes(run, entry.models)
        for method in job.methods.values()
        for task, entry in method.tasks.items()
    )
    return LOAD + TOKEN * tokens


def _decode(run: RunConfig, wildcards: Wildcards) -> float:
    return _generation(run, decode_job(run, wildcards["task"], task_methods(run)[wildcards["task"]]))


def _answer(run: RunConfig, wildcards: Wildcards) -> float:
    name = wildcards["student"]
    # A trial is as large as the student.
    return _generation(run, answer_job(run, run.distill.student if "." in name else name))


def _texts(run: RunConfig) -> int:
    most = run.distill.texts or math.inf
    return int(sum(min(most, run.tasks[task].train) for task in run.distill.tasks))


def _teacher_cache(run: RunConfig, wildcards: Wildcards) -> float:
    model = run.distill.teachers[wildcards["teacher"]].model
    return LOAD + READ * _texts(run) / run.distill.cache.shards * _size(run, model)


def _student(run: RunConfig, wildcards: Wildcards) -> float:
    training = run.distill.training
    teachers = online_teachers(run, wildcards["objective"]).values()
    sequence = 2 * TRAINED * _size(run, run.distill.student) + READ * _sizes(run, (entry.model for entry in teachers))
    return LOAD + sequence * training.count_steps(_texts(run)) * training.batch_size


def _clip_encoder(run: RunConfig, _: Wildcards) -> float:
    return {"built": 60.0, "random": LOAD}.get(run.clip.encoder.source, 2 * LOAD)


def _clip_support(run: RunConfig, _: Wildcards) -> float:
    images = max(run.clip.shots) * len(run.clip.seeds) * CLASSES * run.clip.views
    return LOAD + IMAGE * images * (1 + len(run.clip.auxiliaries))


def _clip_test(run: RunConfig, wildcards: Wildcards) -> float:
    images = run.clip.datasets[wildcards["dataset"]].test_images or IMAGES
    return LOAD + IMAGE * images * (1 + len(run.clip.auxiliaries))


def _clip_fit(run: RunConfig, _: Wildcards) -> float:
    return LOAD + FIT * len(run.clip.shots) * len(run.clip.seeds)


_STAGES: dict[str, Callable[[RunConfig, Wildcards], float]] = {
    "package": lambda *_: 20.0,
    "fetch_model": lambda *_: 60.0,
    "fetch_data": lambda *_: 20.0,
    "fetch_encoder": lambda *_: 30.0,
    "model": _model,
    "task": lambda *_: 2.0,
    "texts": lambda *_: 10.0,
    "expert": _expert,
    "tune": _tune,
    "decode": _decode,
    "teacher_cache": _teacher_cache,
    "student": _student,
    "answer": _answer,
    "clip_encoder": _clip_encoder,
    "clip_support": _clip_support,
    "clip_test": _clip_test,
    "clip_fit": _clip_fit,
}
