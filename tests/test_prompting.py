"""Prompting in a config: what a method says counts before its track; what can't be meant is one sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from checkout import ROOT

from logitfusion.config.jobs.distill import answer_job, student_job, teacher_job
from logitfusion.config.jobs.fusion import decoded_method, tune_job
from logitfusion.config.jobs.models import expert_job, has_shots, task_job
from logitfusion.config.load import resolve_config
from logitfusion.config.methods import method_base, method_models, used_models
from logitfusion.config.prompting import MethodPrompting, Prompting
from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError

SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
CHAT = {"template": "chat", "system": "Be brief."}


def resolve(**values: Any) -> RunConfig:
    """The smoke config with other values; two underscores part the keys of a path."""
    config = copy.deepcopy(SMOKE)
    for path, value in values.items():
        *parents, last = path.split("__")
        place = config
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return resolve_config(config)


def test_a_method_says_what_is_its_own() -> None:
    track = Prompting(**CHAT, num_fewshot=3, fewshot_as_multiturn=True)
    assert MethodPrompting().complete(track) == track
    assert MethodPrompting(num_fewshot=0).complete(track) == track.model_copy(update={"num_fewshot": 0})
    assert MethodPrompting(system="").complete(track).system == ""
    plain = MethodPrompting(template="plain").complete(track)
    assert plain == Prompting(num_fewshot=3)  # without the system and the turns of a chat
    assert MethodPrompting(**CHAT).complete(Prompting()) == Prompting(**CHAT)


def test_decoding_and_tuning_get_it() -> None:
    run = resolve(
        fusion__template="chat", fusion__system="Be brief.", fusion__methods__tuned__num_fewshot=2,
        fusion__methods__proxy__template="plain", distill__template="chat",
    )  # fmt: skip
    assert decoded_method(run, "large", ["sums"]).prompting == Prompting(**CHAT)
    assert decoded_method(run, "proxy", ["sums"]).prompting == Prompting()
    tuned = decoded_method(run, "tuned", ["sums"])
    assert tuned.prompting == tune_job(run, "tuned").prompting == Prompting(**CHAT, num_fewshot=2)
    assert answer_job(run, "small").methods["small"].prompting == Prompting(template="chat")


def test_examples_are_the_methods_then_the_tracks_then_the_tasks() -> None:
    run = resolve(tasks__sums__num_fewshot=1, fusion__methods__proxy__num_fewshot=4)
    large = decoded_method(run, "large", ["sums", "letters"]).tasks
    assert {task: entry.num_fewshot for task, entry in large.items()} == {"sums": 1, "letters": None}
    assert decoded_method(run, "proxy", ["sums"]).tasks["sums"].num_fewshot == 4
    run = resolve(tasks__sums__num_fewshot=1, fusion__num_fewshot=2, fusion__methods__proxy__num_fewshot=0)
    assert decoded_method(run, "large", ["sums"]).tasks["sums"].num_fewshot == 2
    assert decoded_method(run, "proxy", ["sums"]).tasks["sums"].num_fewshot == 0
    assert answer_job(run, "small").methods["small"].tasks["sums"].num_fewshot == 1


@pytest.mark.parametrize(
    "where", [{}, {"fusion__num_fewshot": 2}, {"fusion__methods__proxy__num_fewshot": 2}, {"distill__num_fewshot": 2}]
)
def test_examples_are_kept_where_some_prompt_holds_them(where: dict[str, int]) -> None:
    run = resolve(tasks__sums__num_fewshot=0, **where)
    assert has_shots(run, "sums") == bool(where)
    assert task_job(run, "sums").shots == bool(where)


def test_a_method_with_examples_changes_no_documents() -> None:
    """Unless the task's own entry rules examples out, so that experts need no new training."""
    assert task_job(resolve(), "sums") == task_job(resolve(fusion__methods__proxy__num_fewshot=5), "sums")


def test_training_and_reading_get_their_form() -> None:
    run = resolve(
        experts__sums__template="chat", experts__sums__system="Be brief.", distill__training__template="chat",
        distill__teachers__other__system="Be kind.", models__small__heal__template="chat",
    )  # fmt: skip
    assert (expert_job(run, "sums").template, expert_job(run, "sums").system) == ("chat", "Be brief.")
    assert (expert_job(run, "ceiling").template, expert_job(run, "ceiling").system) == ("plain", None)
    assert student_job(run, "sft").training.template == "chat"
    assert (teacher_job(run, "other").template, teacher_job(run, "other").system) == ("chat", "Be kind.")
    assert teacher_job(run, "twin").template == "plain"
    assert run.models["small"].heal.template == "chat"


def test_experts_of_two_bases_in_one_config() -> None:
    """The base of each is decoded and tuned with, and is made."""
    tiny = {"source": "pruned", "from": "large", "layers": [0]}
    expert = {"base": "tiny", "tasks": ["sums"], "steps": 2}
    own = {"experts": ["tiny_sums"], "base": "tiny", "tune": {}, "tasks": ["sums"]}
    run = resolve(models__tiny=tiny, experts__tiny_sums=expert, fusion__methods__own=own)
    assert (method_base(run, "own"), method_base(run, "proxy")) == ("tiny", "small")
    models = ("large", "tiny", "tiny_sums")
    assert tuple(method_models(run, "own", "sums")) == models
    assert (
        decoded_method(run, "own", ["sums"]).tasks["sums"].models == tune_job(run, "own").tasks["sums"].models == models
    )
    assert {"tiny", "small", "tiny_sums"} <= set(used_models(run))
    assert "tiny" not in used_models(resolve(models__tiny=tiny))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"fusion__system": "x"}, "'fusion.system' is a message of a chat; set template: chat, too."),
        ({"experts__sums__system": "x"}, "'experts.sums.system' is a message of a chat"),
        ({"distill__training__system": "x"}, "'distill.training.system' is a message of a chat"),
        ({"distill__teachers__twin__system": "x"}, "'distill.teachers.twin.system' is a message of a chat"),
        ({"fusion__methods__proxy__system": "x"}, "'fusion.methods.proxy.system' is a message of a chat"),
        ({"fusion__fewshot_as_multiturn": True}, "'fusion.fewshot_as_multiturn' makes turns of a chat"),
        ({"fusion__num_fewshot": -1}, "'fusion.num_fewshot' must be at least 0, and is -1."),
        ({"fusion__template": "chatml"}, "'fusion.template' must be one of plain, chat (did you mean 'chat'?)"),
        ({"fusion__methods__proxy__base": "smal"}, "base' names the model 'smal', which does not exist: did you mean"),
        ({"fusion__methods__large__base": "small"}, "'fusion.methods.large' has an unknown key 'base'"),
        (
            {"fusion__methods__proxy__base": "stranger", "fusion__methods__proxy__tasks": ["sums"]},
            "'proxy' steers with 'sums', an expert of 'small' and not of fusion.methods.proxy.base ('stranger')",
        ),
    ],
)
def test_what_can_not_be_meant_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(**values)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
