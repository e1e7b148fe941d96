"""The table of reruns: for every value of the demo's config, the rules that run again when it changes.

A key is a path of the resolved config: ``*`` stands for any name, ``a|b`` for either, ``**`` at the end for all that is
left; the first row that fits counts. ``to`` is another value, or a function of the resolved config and the path that
returns one; numbers, switches, digests and free texts need none. Where a value can not change alone (a model of another
source has other keys), it is ``Together``.

A new key of the config needs a row. Ask yourself what depends on it, write that down, and run the test: if more runs
again than you wrote, the key is in a slice (``logitfusion/config/jobs``) that it need not be in.

The demo learns from no texts alone: the keys of those are in ``tests/test_texts_workflow.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """What changing a value runs again, and what it is changed to."""

    rules: set[str]
    to: Any = None


@dataclass(frozen=True)
class Together:
    """Values that change at once, by path."""

    values: dict[str, Any]


# The table of all numbers names the config that they were made with, so it and all that is drawn from it follow always.
TABLES = {"metrics", "plot_methods", "plot_students", "plot_clip", "index"}
DECODED = {"decode", "evaluate", "plot_traces"} | TABLES
TUNED = {"tune", "plot_tuning"} | DECODED
ANSWERED = {"answer", "evaluate_students"} | TABLES
STUDENTS = {"student", "plot_student_losses"} | ANSWERED
TAUGHT = {"teacher_cache"} | STUDENTS
EXPERT = {"expert", "plot_losses"} | TUNED
CEILING = {"expert", "plot_losses"} | DECODED | TAUGHT  # one of the teachers
SMALL = {"model"} | EXPERT | STUDENTS
LARGE = SMALL | TAUGHT
GEMMA = {"model"} | TAUGHT
PREDICTED = {"clip_predict", "plot_clip_answers"} | TABLES
FITTED = {"clip_fit"} | PREDICTED
DRAWN = {"clip_support"} | FITTED
ENCODED = {"clip_test"} | DRAWN
BUILT = {"clip_encoder"} | ENCODED
EMOJI = {"clip_data"} | BUILT  # the set that the CLIP is built of, too
SHIFTED = {"clip_data", "clip_test"} | PREDICTED
SHOWN = {"plot_clip_answers"} | TABLES
FETCHED = {"fetch"}  # the list of downloads
PACKAGE = {"package"} | FETCHED
EVERYTHING = {"task"} | LARGE | EMOJI


def _another(*choices: str) -> Any:
    return lambda config, path: next(choice for choice in choices if choice != value_at(config, path))


def _another_method(config: dict[str, Any], path: str) -> str:
    return "tip_adapter_f" if path.split(".")[2] == "taskres" else "taskres"  # trained by epochs, as an oracle must be


def _untuned(config: dict[str, Any], path: str) -> Together:
    method = path.removesuffix(".weights")
    return Together({path: 1.0, f"{method}.tune": None, f"{method}.rule": "grid"})


def _unfitted(value: Any) -> Any:
    """What is said where no gate is fitted."""

    def make(config: dict[str, Any], path: str) -> Together:
        gates = [name for name, entry in config["fusion"]["methods"].items() if entry.get("rule") == "gate"]
        return Together({path: value} | {f"fusion.methods.{name}.rule": "grid" for name in gates})

    return make


def _searched(value: Any) -> Any:
    """What is said of a search, where there is one with it in place of a gate."""
    return lambda config, path: Together({path: value, f"{path.partition('.tune.')[0]}.rule": "grid"})


def _gated(config: dict[str, Any], path: str) -> Together:
    """A gate that was fitted before, in place of what is searched or tuned; any file will do for a plan."""
    method = path.rpartition(".")[0]
    tuned = {f"{method}.tune": None} if value_at(config, f"{method}.tune") is not None else {}
    if value_at(config, f"{method}.weights") not in (None, "dynamic"):
        tuned[f"{method}.weights"] = "dynamic"
    return Together({path: "config/config.yaml", f"{method}.rule": "gate"} | tuned)


def _fitting(value: Any) -> Any:
    """What is said of a gate's fit, where one is fitted with it."""

    def make(config: dict[str, Any], path: str) -> Together:
        method = path.partition(".tune.")[0]
        return Together({path: value, f"{method}.rule": "gate", f"{method}.tune.trusts": [0.0, 0.25, 0.5, 0.75, 1.0]})

    return make


def _weighted(config: dict[str, Any], path: str) -> Together:
    teachers = value_at(config, path.replace(".weights", ".teachers"))
    return Together({path: [1.0 for _ in teachers], path.replace(".weights", ".combine"): "weighted"})


def _judged(config: dict[str, Any], path: str) -> Together:
    """A method whose student answers itself, with teachers that read online."""
    method = path.rpartition(".")[0]
    teachers = value_at(config, f"{method}.teachers")
    taught = {} if teachers else {f"{method}.teachers": ["gemma"], f"{method}.uld": 0.5}
    online = {f"distill.teachers.{teacher}.online": True for teacher in teachers or ["gemma"]}
    return Together({path: 0.5} | taught | online)


def _of_another_source(entry: dict[str, Any]) -> Any:
    return lambda config, path: Together({path.rpartition(".")[0]: entry})


def _swapped(config: dict[str, Any], path: str) -> Together:
    """The set that is shifted and the one that it is shifted from, the other way round."""
    emoji = _FOLDER if path == "clip.datasets.emoji.source" else value_at(config, "clip.datasets.emoji")
    entries = {
        "emoji": emoji | {"shift_of": "emoji_twitter"},
        "emoji_twitter": value_at(config, "clip.datasets.emoji_twitter"),
    }
    entries["emoji_twitter"] = entries["emoji_twitter"] | {"shift_of": None}
    return Together(
        {f"clip.datasets.{name}": entry for name, entry in entries.items()} | {"clip.encoder.pairs": "emoji_twitter"}
    )


def _epochs(config: dict[str, Any], path: str) -> Together:
    return Together({path: 1.0, path.replace(".epochs", ".steps"): None})


def _sharded(config: dict[str, Any], path: str) -> Together:
    return Together({path: True, path.replace(".sharded", ".processes"): 2})


def _quantised(config: dict[str, Any], path: str) -> Together:
    return Together({path: "nf4", path.replace(".quantisation", ".method"): "lora"})


def _evaluated(value: Any) -> Any:
    """What is said of evaluations, where there are some with it."""
    return lambda config, path: Together({path: value, "distill.training.evaluate": ["sums"]})


def _best_by(config: dict[str, Any], path: str) -> Together:
    return Together({path: "metric", "distill.training.evaluate": ["sums"], "distill.training.patience": 3})


def _chatting(value: Any) -> Any:
    """What is said of chats, where texts become chats with it."""
    return lambda config, path: Together({path: value, f"{path.rpartition('.')[0]}.template": "chat"})


_system, _turns = _chatting("Be brief."), _chatting(True)


def value_at(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        config = config[int(part)] if isinstance(config, list) else config[part]
    return config


_RANDOM = {"source": "random"}
_FOLDER = {"source": "folder", "path": "config/smoke_images/bright"}
_BASES = {f"experts.{name}.base": "gemma" for name in ("sst2", "sums", "common_knowledge")} | {"fusion.base": "gemma"}

ROWS = {
    "run": Row(EVERYTHING | FETCHED),
    "seed": Row(SMALL | TAUGHT | ENCODED),
    # ---- models
    "models.large.source": Row(LARGE | FETCHED, _of_another_source(_RANDOM)),
    "models.large.package|sha256": Row(PACKAGE | LARGE),
    "models.large.file": Row(LARGE),
    "models.large.terms": Row(LARGE, "its own"),
    "models.large.dtype": Row(LARGE, "bfloat16"),
    "models.small.dtype": Row(SMALL, "bfloat16"),
    "models.gemma.dtype": Row(GEMMA, "bfloat16"),
    "models.small.source": Row(SMALL, _of_another_source(_RANDOM)),
    "models.small.from": Row(SMALL, "gemma"),
    "models.small.layers": Row(SMALL, [0, 29]),
    "models.small.heal.tasks": Row(SMALL, ["sums"]),
    "models.small.heal.precision": Row(SMALL, "fp32"),
    "models.small.heal.epochs": Row(SMALL, _epochs),
    "models.small.heal.processes": Row(SMALL, 2),
    "models.small.heal.sharded": Row(SMALL, _sharded),
    "models.small.heal.attention": Row(SMALL, "eager"),
    "models.small.heal.packing": Row(SMALL, 64),
    "models.small.heal.template": Row(SMALL, "chat"),
    "models.small.heal.system": Row(SMALL, _system),
    "models.small.heal.*": Row(SMALL),
    "models.gemma.source": Row(GEMMA | FETCHED, _of_another_source(_RANDOM)),
    "models.gemma.parts.*.package|sha256": Row(PACKAGE | GEMMA),
    "models.gemma.**": Row(GEMMA),
    # ---- tasks: nothing learns from sciq; from the others also the ceiling, which is a teacher
    "tasks.sst2.metric": Row({"evaluate", "plot_traces"} | TABLES, "exact_match"),
    "tasks.common_knowledge.metric": Row({"evaluate", "evaluate_students", "plot_traces"} | TABLES, "accuracy"),
    "tasks.*.metric": Row({"evaluate", "plot_traces"} | TABLES, "accuracy"),
    "tasks.common_knowledge.generation_kwargs": Row(TUNED | ANSWERED, {"max_gen_toks": 3}),
    "tasks.sciq.generation_kwargs": Row(DECODED, {"max_gen_toks": 3}),
    "tasks.*.generation_kwargs": Row(TUNED, {"max_gen_toks": 3}),
    "tasks.sciq.harness": Row({"task"} | DECODED, "common_knowledge"),
    "tasks.*.harness": Row({"task"} | LARGE, "sciq_passages"),
    "tasks.sciq.include_path": Row({"task"} | DECODED, "config/smoke_tasks"),
    "tasks.*.include_path": Row({"task"} | LARGE, "config/smoke_tasks"),
    "tasks.sciq.revision|training_split": Row({"task"} | DECODED, "rows"),
    "tasks.*.revision|training_split": Row({"task"} | LARGE, "rows"),
    "tasks.common_knowledge.num_fewshot": Row(TUNED | ANSWERED, 1),
    "tasks.sciq.num_fewshot": Row(DECODED, 1),
    "tasks.*.num_fewshot": Row(TUNED, 1),
    "tasks.sciq.split_seed": Row({"task"} | DECODED, 1),
    "tasks.*.split_seed": Row({"task"} | LARGE, 1),
    "tasks.sciq.**": Row({"task"} | DECODED),
    "tasks.**": Row({"task"} | LARGE),
    # ---- experts
    "experts.ceiling.base": Row(CEILING, "small"),
    "experts.ceiling.tasks": Row(CEILING, ["sums"]),
    "experts.ceiling.method": Row(CEILING, "full"),
    "experts.ceiling.precision": Row(CEILING, "fp32"),
    "experts.ceiling.quantisation": Row(CEILING, "nf4"),
    "experts.ceiling.epochs": Row(CEILING, _epochs),
    "experts.ceiling.processes": Row(CEILING, 2),
    "experts.ceiling.sharded": Row(CEILING, _sharded),
    "experts.ceiling.attention": Row(CEILING, "eager"),
    "experts.ceiling.packing": Row(CEILING, 64),
    "experts.ceiling.template": Row(CEILING, "chat"),
    "experts.ceiling.system": Row(CEILING, _system),
    "experts.ceiling.**": Row(CEILING),
    "experts.*.base": Row(EXPERT, Together(_BASES)),
    "experts.*.tasks": Row(EXPERT, ["sums", "sst2"]),
    "experts.*.method": Row(EXPERT, "lora"),
    "experts.*.lora.*": Row(TABLES),  # all but the ceiling are trained in full
    "experts.*.precision": Row(EXPERT, "fp32"),
    "experts.*.quantisation": Row(EXPERT, _quantised),
    "experts.*.epochs": Row(EXPERT, _epochs),
    "experts.*.processes": Row(EXPERT, 2),
    "experts.*.sharded": Row(EXPERT, _sharded),
    "experts.*.attention": Row(EXPERT, "eager"),
    "experts.*.packing": Row(EXPERT, 64),
    "experts.*.template": Row(EXPERT, "chat"),
    "experts.*.system": Row(EXPERT, _system),
    "experts.**": Row(EXPERT),
    # ---- fusion: three methods are tuned, six are steered, three are one model
    "fusion.large": Row(TUNED, "gemma"),
    "fusion.base": Row(EXPERT, Together(_BASES)),
    "fusion.split": Row(TUNED, _unfitted("validation")),  # a gate may not decode what it was fitted on
    "fusion.batch_size": Row(TUNED),
    "fusion.dtype": Row(TUNED, "bfloat16"),
    "fusion.attention": Row(TUNED, "eager"),
    "fusion.template": Row(TUNED, "chat"),
    "fusion.system": Row(TUNED, _system),
    "fusion.fewshot_as_multiturn": Row(TUNED, _turns),
    "fusion.num_fewshot": Row(TUNED, 2),
    "fusion.gpus": Row(TABLES),  # moves a model and changes no number
    "fusion.methods.*.gpus": Row(TABLES, 2),
    "fusion.methods.*.base": Row(TABLES, "small"),  # the track's own: its experts have no other
    "fusion.methods.fixed|gate|multi_gate.template": Row(TUNED, "chat"),
    "fusion.methods.fixed|gate|multi_gate.system": Row(TUNED, _system),
    "fusion.methods.fixed|gate|multi_gate.fewshot_as_multiturn": Row(TUNED, _turns),
    "fusion.methods.fixed|gate|multi_gate.num_fewshot": Row(TUNED, 2),
    "fusion.methods.*.template": Row(DECODED, "chat"),
    "fusion.methods.*.system": Row(DECODED, _system),
    "fusion.methods.*.fewshot_as_multiturn": Row(DECODED, _turns),
    "fusion.methods.*.num_fewshot": Row(DECODED, 2),
    "fusion.methods.fixed|gate|multi_gate.batch_size": Row(TUNED, 8),
    "fusion.methods.*.batch_size": Row(DECODED, 8),
    "fusion.methods.fixed|gate|multi_gate.weights": Row({"plot_tuning"} | DECODED, _untuned),
    "fusion.methods.fixed|gate|multi_gate.tasks": Row(TUNED, ["sst2"]),
    "fusion.methods.fixed|gate|multi_gate.experts": Row(TUNED, ["sums"]),
    "fusion.methods.fixed|gate|multi_gate.rule": Row(TUNED, "newton"),
    "fusion.methods.fixed|gate|multi_gate.gate": Row({"plot_tuning"} | DECODED, _gated),
    "fusion.methods.fixed|gate|multi_gate.selection": Row(TUNED, "pooled"),
    "fusion.methods.fixed|gate|multi_gate.bounds": Row(TUNED, [0.0, 1.0]),
    "fusion.methods.fixed|gate|multi_gate.familiar": Row(TUNED, 0.5),
    "fusion.methods.fixed|gate|multi_gate.tune.trusts|anchors": Row(TUNED, _searched([0.5])),
    "fusion.methods.fixed|gate|multi_gate.tune.ridges": Row(TUNED, _fitting([0.5])),
    "fusion.methods.fixed|gate|multi_gate.tune.criterion": Row(TUNED, _another("likelihood", "metric")),
    "fusion.methods.fixed|gate|multi_gate.tune.steered_share": Row(TUNED, 0.5),
    "fusion.methods.fixed|gate|multi_gate.step|trust|anchor": Row(TUNED),
    "fusion.methods.*.model": Row(DECODED, "small"),
    "fusion.methods.*.tasks": Row(DECODED, ["sst2"]),
    "fusion.methods.*.experts": Row(DECODED, ["sums"]),
    "fusion.methods.*.weights": Row(DECODED, 0.5),
    "fusion.methods.*.rule": Row(DECODED, "newton"),
    "fusion.methods.*.gate": Row(DECODED, _gated),
    "fusion.methods.*.selection": Row(DECODED, "pooled"),
    "fusion.methods.*.bounds": Row(DECODED, [0.0, 1.0]),
    "fusion.methods.*.familiar": Row(DECODED, 0.5),
    "fusion.methods.proxy.tune": Row(
        TUNED, Together({"fusion.methods.proxy.weights": "dynamic", "fusion.methods.proxy.tune": {}})
    ),
    "fusion.methods.*.tune": Row(TUNED, {}),
    "fusion.methods.*.step|trust|anchor": Row(DECODED),
    "fusion.temperature|top_p": Row(TUNED, 0.5),  # in place of the tasks' own
    "fusion.top_k": Row(TUNED, 5),
    "fusion.seed": Row(TUNED),  # what is judged by its metric is decoded
    "fusion.shards|speculative": Row(DECODED),
    # ---- distillation
    "distill.student": Row(STUDENTS, "gemma"),
    "distill.tasks": Row(TAUGHT, ["sums"]),
    "distill.texts": Row(TAUGHT, 100),
    "distill.teachers.gemma.model": Row(TAUGHT | FETCHED, "large"),  # gemma is not used then
    "distill.teachers.*.model": Row(TAUGHT, "large"),
    "distill.teachers.*.template": Row(TAUGHT, "chat"),
    "distill.teachers.*.system": Row(TAUGHT, _system),
    "distill.teachers.*.online": Row(STUDENTS),  # its cache is not asked for
    "distill.cache.precision": Row(TAUGHT, "fp32"),
    "distill.cache.rounding": Row(TAUGHT, "coarse"),
    "distill.cache.gpus": Row(TABLES),
    "distill.gpus": Row(TABLES),
    "distill.cache.*": Row(TAUGHT),
    "distill.training.method": Row(STUDENTS, "lora"),
    "distill.training.lora.*": Row(TABLES),  # trained in full
    "distill.training.precision": Row(STUDENTS, "fp32"),
    "distill.training.quantisation": Row(STUDENTS, _quantised),
    "distill.training.epochs": Row(STUDENTS, _epochs),
    "distill.training.processes": Row(STUDENTS, 2),
    "distill.training.sharded": Row(STUDENTS, _sharded),
    "distill.training.attention": Row(STUDENTS, "eager"),
    "distill.training.packing": Row(STUDENTS, 64),
    "distill.training.template": Row(STUDENTS, "chat"),
    "distill.training.system": Row(STUDENTS, _system),
    "distill.training.evaluate": Row(STUDENTS, ["sums"]),
    "distill.training.eval_steps|patience": Row(STUDENTS, _evaluated(3)),
    "distill.training.best_by": Row(STUDENTS, _best_by),
    "distill.training.report_to": Row(STUDENTS, ["tensorboard"]),
    "distill.training.*": Row(STUDENTS),
    "distill.methods.sft.teachers|uld": Row(
        STUDENTS, Together({"distill.methods.sft.teachers": ["gemma"], "distill.methods.sft.uld": 0.5})
    ),
    "distill.methods.sft.gld": Row(
        STUDENTS, Together({"distill.methods.sft.teachers": ["gemma"], "distill.methods.sft.gld": 0.5})
    ),
    "distill.methods.*.teachers": Row(STUDENTS, ["gemma"]),
    "distill.methods.*.nodes": Row(STUDENTS, _another("vocab", "rank")),
    "distill.methods.*.signal": Row(STUDENTS, _another("prob", "logprob")),
    "distill.methods.*.combine": Row(STUDENTS, "min_ce"),
    "distill.methods.sft.kl": Row(
        STUDENTS, Together({"distill.methods.sft.teachers": ["gemma"], "distill.methods.sft.kl": 0.5})
    ),
    "distill.methods.sft.hybrid": Row(
        STUDENTS, Together({"distill.methods.sft.teachers": ["gemma"], "distill.methods.sft.hybrid": 0.5})
    ),
    "distill.methods.*.normalisation": Row(STUDENTS, "texts"),
    "distill.methods.*.shared_weight": Row(STUDENTS, 0.5),
    "distill.methods.*.divergence": Row(STUDENTS, "jsd"),
    "distill.methods.*.weights": Row(STUDENTS, _weighted),
    "distill.methods.*.alignment": Row(STUDENTS, "positions"),
    "distill.methods.*.on_policy": Row(STUDENTS, _judged),
    "distill.methods.*.*": Row(STUDENTS),
    "distill.seeds": Row(STUDENTS, [0, 1]),
    "distill.baseline": Row({"plot_student_losses"} | TABLES, "uld"),
    "distill.split": Row({"plot_student_losses"} | ANSWERED, "validation"),
    "distill.template": Row(ANSWERED, "chat"),
    "distill.system": Row(ANSWERED, _system),
    "distill.fewshot_as_multiturn": Row(ANSWERED, _turns),
    "distill.num_fewshot": Row(ANSWERED, 2),
    "distill.batch_size": Row(ANSWERED),
    "distill.dtype": Row(ANSWERED, "bfloat16"),
    "distill.attention": Row(ANSWERED, "eager"),
    # ---- few-shot CLIP
    "clip.encoder.source": Row(BUILT | FETCHED, _of_another_source(_RANDOM)),
    "clip.encoder.pairs": Row(BUILT, _swapped),
    "clip.encoder.pretraining": Row(SHOWN),
    "clip.encoder.recipe.templates": Row(BUILT, ["a {}"]),
    "clip.encoder.recipe.*": Row(BUILT),
    "clip.encoder.*.package|sha256": Row(PACKAGE | BUILT),
    "clip.encoder.*.file|model": Row(BUILT),
    "clip.auxiliaries.*.source": Row(
        ENCODED | FETCHED | {"fetch_encoder"},
        _of_another_source({"source": "timm", "model": "resnet18", "pretraining": "pictures"}),
    ),
    "clip.auxiliaries.*.package|sha256": Row(PACKAGE | ENCODED),
    "clip.auxiliaries.*.file|model": Row(ENCODED),
    "clip.auxiliaries.*.pretraining": Row(SHOWN),
    "clip.auxiliaries.*.preprocess.input_size": Row(ENCODED, [3, 64, 64]),
    "clip.datasets.emoji.source": Row(EMOJI | FETCHED, _swapped),
    "clip.datasets.emoji_twitter.source": Row(SHIFTED | FETCHED, _of_another_source(_FOLDER | {"shift_of": "emoji"})),
    "clip.datasets.emoji.shift_of": Row(BUILT, _swapped),
    "clip.datasets.emoji_twitter.shift_of": Row(BUILT, _swapped),
    "clip.datasets.emoji.package|sha256": Row(PACKAGE | EMOJI),
    "clip.datasets.emoji_twitter.package|sha256": Row(PACKAGE | SHIFTED),
    "clip.datasets.emoji.vendor": Row(EMOJI),
    "clip.datasets.emoji_twitter.vendor": Row(SHIFTED),
    "clip.datasets.emoji.classes": Row(EMOJI, {"one": ["animal-bird"], "two": ["tool"]}),
    "clip.datasets.emoji_twitter.classes": Row(SHIFTED, {"one": ["animal-bird"], "two": ["tool"]}),
    "clip.datasets.emoji.test_images": Row(EMOJI, 10),
    "clip.datasets.emoji_twitter.test_images": Row(SHIFTED, 10),
    "clip.datasets.emoji.prompts": Row(EMOJI, ["a {}"]),
    "clip.datasets.emoji_twitter.prompts": Row(SHIFTED, ["a {}"]),
    "clip.datasets.emoji.*": Row(EMOJI),
    "clip.datasets.emoji_twitter.*": Row(SHIFTED),
    "clip.shots": Row(DRAWN, [1, 2]),
    "clip.seeds": Row(DRAWN, [0, 1]),
    "clip.views": Row(DRAWN),
    "clip.seed|batch_size|max_megapixels|max_skipped": Row(ENCODED),
    "clip.methods.*.method": Row(FITTED, _another_method),
    "clip.methods.*.*": Row(FITTED),
    "clip.oracle": Row(FITTED, ["taskres"]),
    "clip.baselines": Row(SHOWN, []),
    "clip.shown": Row(SHOWN, "taskres"),
    # ---- the table and the report
    "evaluate.base": Row(TABLES, "proxy"),
    "evaluate.ceiling": Row(TABLES, "proxy"),
    "evaluate.confidence": Row(TABLES, 0.9),
    "evaluate.*": Row(TABLES),
    "report.trace_examples": Row({"plot_traces", "index"}),
    "report.published": Row({"index"}, ["dlf-single"]),
}
