"""Responses in shards, replayed: the numbers of one evaluation, and those of the harness's own model at weight 0."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from harness_tasks import TASKS, write_tasks
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from recorded import GROUP, METRICS, add_group, open_toys

from logitfusion.config.prompting import Prompting
from logitfusion.errors import UserError
from logitfusion.evaluate.harness import Evaluation, evaluate_responses
from logitfusion.evaluate.judged import judge_examples
from logitfusion.evaluate.requests import Recorder, build_requests
from logitfusion.evaluate.responses import Response
from logitfusion.evaluate.scores import METRIC
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.shards import shard_range
from logitfusion.tasks.documents import OpenedTask

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}me:{% endif %}"
PLAIN = Prompting()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    add_group(write_tasks(folder))
    return folder


@pytest.fixture(scope="module")
def fusion(tiny_models: dict[str, Path]) -> FusedLM:
    """With weight 0: the large model alone."""
    lm = FusedLM.from_folders(tiny_models["large"], tiny_models["base"], [tiny_models["expert_a"]], weights=0.0)
    lm.tokenizer.chat_template = CHAT
    return lm


@pytest.fixture(autouse=True)
def _nothing_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def record(lm: FusedLM, task: OpenedTask, shards: int = 1, prompting: Prompting = PLAIN) -> list[Response]:
    """What all shards hold, in an order of no meaning, after a way through JSON."""
    model = FusedLMEval(lm, batch_size=3)
    ranges = [shard_range(len(task.documents), shard, shards) for shard in range(shards)]
    found = [Recorder(model, "t").record(build_requests(task, chosen, prompting, model)) for chosen in ranges if chosen]
    rows = [json.loads(json.dumps(asdict(response))) for part in found for response in part]
    random.Random(0).shuffle(rows)
    return [Response(**row) for row in rows]


def in_one_go(model: Any, tasks: Path, name: str, **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=[name], task_manager=manager, **options)


def check(evaluation: Evaluation, expected: dict[str, Any], name: str) -> None:
    """All numbers and samples of an evaluation in one go."""
    found = {(one.subtask or name, one.metric): one for one in evaluation.scores}
    compared = 0
    for task, numbers in expected["results"].items():
        for key, value in numbers.items():
            metric, comma, _ = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                one, stderr = found[task, metric], numbers[f"{metric}_stderr,none"]
                assert one.value == pytest.approx(value, rel=1e-5)
                assert one.stderr == (None if stderr == "N/A" else pytest.approx(stderr, rel=1e-5))
                compared += 1
    assert compared == len(found) > 0
    for task, samples in expected["samples"].items():
        for mine, other in zip(evaluation.samples[task], samples, strict=True):
            for key in ("doc_id", "doc", "target", "metrics"):
                assert mine[key] == other[key]
            for ours, theirs in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
                assert ours == theirs if isinstance(theirs, str) else ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("name", [*TASKS, GROUP])
def test_shards_give_what_one_evaluation_gives(fusion: FusedLM, tasks: Path, name: str) -> None:
    task = open_toys(tasks, name, metric=METRICS.get(name, "acc"))
    evaluation = evaluate_responses(task, record(fusion, task, shards=4), "method 'm'")
    hf = HFLM(pretrained=fusion.large, tokenizer=fusion.tokenizer, batch_size=3, logits_cache=False)
    for model in (FusedLMEval(fusion, batch_size=3), hf):
        check(evaluation, in_one_go(model, tasks, name), name)


@pytest.mark.parametrize(
    "prompting",
    [Prompting(num_fewshot=2), Prompting(template="chat", system="Be brief.", fewshot_as_multiturn=True)],
    ids=["examples", "chat"],
)
@pytest.mark.parametrize("name", ["toy_choice", "toy_words"])
def test_prompts_of_shards_are_those_of_one_evaluation(
    fusion: FusedLM, tasks: Path, name: str, prompting: Prompting
) -> None:
    """Examples are drawn by one generator over all documents, whatever the shards."""
    chat = prompting.template == "chat"
    options = {
        "num_fewshot": 2,
        "apply_chat_template": chat,
        "system_instruction": prompting.system,
        "fewshot_as_multiturn": prompting.fewshot_as_multiturn,
    }
    model = FusedLMEval(fusion)
    expected = in_one_go(model, tasks, name, **options)["samples"][name]
    prompts = []
    for shard in range(3):
        task = open_toys(tasks, name, num_fewshot=2)
        chosen = shard_range(len(task.documents), shard, 3)
        prompts += [one.instance.args for one in build_requests(task, chosen, prompting, model)]
    assert prompts == [tuple(arguments) for row in expected for arguments in row["arguments"]]
    assert len({prompt for prompt, _ in prompts}) > 3
    assert chat == prompts[0][0].startswith("system: Be brief.\nuser: ")


def test_repeated_requests_keep_their_order(fusion: FusedLM, tasks: Path, tmp_path: Path) -> None:
    definition = yaml.safe_load((tasks / "toy_words.yaml").read_text(encoding="utf-8"))
    drawn = {"until": [], "max_gen_toks": 5, "do_sample": True, "temperature": 2.0}
    definition |= {"task": "toy_draws", "repeats": 3, "generation_kwargs": drawn}
    (tmp_path / "toy_draws.yaml").write_text(yaml.safe_dump(definition, allow_unicode=True), encoding="utf-8")
    task = open_toys(tmp_path, "toy_draws", metric="exact_match")
    model = FusedLMEval(fusion, seed=7)
    said = Recorder(model, "t").record(build_requests(task, range(len(task.documents)), PLAIN, model))
    assert [response.repeat for response in said[:4]] == [0, 1, 2, 0]
    assert len({response.text for response in said}) > len(task.documents)
    evaluation = evaluate_responses(task, reversed(said), "method 'm'")
    for sample in evaluation.samples["toy_draws"]:
        expected = [response.text for response in said if response.document == sample["doc_id"]]
        assert sample["resps"] == [expected]


def test_shards_that_lack_or_double_a_response_are_refused(fusion: FusedLM, tasks: Path) -> None:
    task = open_toys(tasks, "toy_choice")
    said = record(fusion, task)
    stranger = replace(said[0], document=99)
    wrong = {
        "no response": said[1:],
        "several responses": [*said, said[3]],
        "does not ask": [*said, stranger],
        "without its loglikelihood": [replace(said[0], loglikelihood=None), *said[1:]],
    }
    for words, responses in wrong.items():
        with pytest.raises(UserError, match=rf"method 'm'.*{words}.*toy_choice"):
            evaluate_responses(task, responses, "method 'm'")


def test_a_metric_that_nothing_computes_is_named(fusion: FusedLM, tasks: Path) -> None:
    """A definition may list what its own code does not give."""
    task = replace(open_toys(tasks, "toy_choice"), metric=("absent", "none"))
    with pytest.raises(UserError, match=r"metric 'absent' of 'toy_choice' has no value.* there are acc"):
        evaluate_responses(task, record(fusion, task), "method 'm'")


def test_judged_rows_hold_what_was_said(fusion: FusedLM, tasks: Path) -> None:
    task = open_toys(tasks, GROUP)
    said = record(fusion, task, shards=2)
    examples = judge_examples(task, "m", said, evaluate_responses(task, said, "method 'm'"))
    assert list(zip(examples["subtask"], examples["id"], strict=True)) == [
        (document.task, document.id) for document in task.documents
    ]
    for row in examples.to_dict("records"):
        likelihoods = dict(zip(row["choices"], row["loglikelihoods"], strict=True))
        assert row["answer"] == row["text"] == max(likelihoods, key=likelihoods.__getitem__)
        assert row[f"{METRIC}acc"] == (row["text"] == row["gold"])
        assert row["prompt"].startswith("Q: ")
        assert not row["format_failure"]


def test_a_recorded_text_is_what_the_fusion_generates(tiny_models: dict[str, Path], tasks: Path) -> None:
    """Tokens, weights and the reason of the end are those of stop strings, by which texts end elsewhere."""
    models = tiny_models["large"], tiny_models["base"], [tiny_models["expert_a"], tiny_models["expert_b"]]
    steered = FusedLM.from_folders(*models, step=0.5)
    task = open_toys(tasks, "toy_words", metric="exact_match")
    said = record(steered, task)
    examples = judge_examples(task, "m", said, evaluate_responses(task, said, "method 'm'"))
    (words,) = task.loaded["tasks"].values()
    prompts = list(map(words.doc_to_text, words.eval_docs))
    expected = steered.generate(prompts, max_new_tokens=6, stop=["\n", "e"], batch_size=3)
    by_document = {response.document: response for response in said}
    for number, generation in enumerate(expected):
        response = by_document[number]
        for key in ("text", "token_ids", "weights", "expert", "finish_reason"):
            assert getattr(response, key) == getattr(generation, key)
        assert examples["text"][number] == examples["answer"][number] == generation.text
    assert {len(weights) for response in said for weights in response.weights} == {2}
