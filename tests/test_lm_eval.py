"""A fusion in lm-evaluation-harness: with weight 0 it is the harness's own model of the large one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from harness_tasks import TASKS, write_tasks
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from test_fusion_score import make_beginner
from transformers import PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.models.load import load_model
from logitfusion.models.tiny import tiny_tokenizer

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}me:{% endif %}"
)
LETTERS = ["a", "e", " ", "\n", "é", "→", "the", " 4", "=", "<s>", "</s>", "'"]


def requests_of(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, argument, number) for number, argument in enumerate(arguments)]


def random_text(generator: random.Random, most: int) -> str:
    return "".join(generator.choices(LETTERS, k=generator.randint(1, most)))


def make_fusion(tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase, **options: object) -> FusedLM:
    models = {name: load_model(folder, device=torch.device("cpu")) for name, folder in tiny_models.items()}
    experts = [models["expert_a"], models["expert_b"]]
    return FusedLM(models["large"], models["base"], experts, tokenizer=tokenizer, **options)


@pytest.fixture(scope="module", params=["plain", "begins"])
def fusion(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> FusedLM:
    """With weight 0; its tokenizer does or does not put the begin-of-text token before a text."""
    tokenizer = make_beginner() if request.param == "begins" else tiny_tokenizer()
    tokenizer.chat_template = CHAT
    return make_fusion(tiny_models, tokenizer, weights=0.0)


def both(fusion: FusedLM, max_length: int | None = None, batch_size: int = 3) -> tuple[HFLM, FusedLMEval]:
    """The harness's model of the large one, and ours. Its cache of logits mixes up pairs that split one text twice."""
    reference = HFLM(
        pretrained=fusion.large,
        tokenizer=fusion.tokenizer,
        max_length=max_length,
        batch_size=batch_size,
        logits_cache=False,
    )
    return reference, FusedLMEval(fusion, max_length=max_length, batch_size=batch_size)


# Against the harness's own model

AWKWARD_PAIRS = [
    ("Hello", " world"),
    ("Hello ", "world"),
    ("Hello\n\n", "world"),
    ("", "no context"),
    ("", " "),
    ("", "<s>twice"),
    ("<s>given", " already"),
    ("2 + 2 =", " 4"),
    ("2 + 2 =", " 5"),
    ("2 + 2 =", " 4"),
    ("a" * 40, "b" * 7),
    ("a", "b" * 12),
    ("Grüße", " →"),
]


@pytest.mark.parametrize("max_length", [None, 12])
def test_likelihoods_are_those_of_the_large_model(fusion: FusedLM, max_length: int | None) -> None:
    generator = random.Random(0)
    drawn = [(random_text(generator, 12), "x" + random_text(generator, 3)) for _ in range(20)]
    requests = requests_of("loglikelihood", AWKWARD_PAIRS + drawn)
    reference, ours = both(fusion, max_length)
    oracle, found = (model.loglikelihood(requests, disable_tqdm=True) for model in (reference, ours))
    for request, (likelihood, greedy), expected in zip(requests, found, oracle, strict=True):
        assert (likelihood, greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1]), request.args


def test_what_the_large_model_says_is_greedy(fusion: FusedLM) -> None:
    reference, ours = both(fusion)
    said = fusion.generate(["Hello", "2 + 2 ="], max_new_tokens=5)
    pairs = [(None, fusion.encode(text), row.token_ids) for text, row in zip(["Hello", "2 + 2 ="], said, strict=True)]
    for model in (reference, ours):
        assert [greedy for _, greedy in model._loglikelihood_tokens(pairs, disable_tqdm=True)] == [True, True]


@pytest.mark.parametrize("max_length", [None, 1, 7, 12])
def test_rolling_likelihoods_are_those_of_the_large_model(fusion: FusedLM, max_length: int | None) -> None:
    generator = random.Random(1)
    texts = ["", "a", "<s>a", "a" * 12, "a" * 13, *(random_text(generator, 30) for _ in range(10))]
    requests = requests_of("loglikelihood_rolling", [(text,) for text in texts])
    oracle, found = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in both(fusion, max_length))
    assert found == pytest.approx(oracle, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(
    "asked",
    [
        {"until": ["\n"], "max_gen_toks": 8},
        {"until": "e", "max_new_tokens": 11, "do_sample": False, "temperature": 0.7},
        {"until": ["ab", "x", "�", "r"], "max_gen_toks": 9, "temperature": 0.0},
        {"until": [], "max_gen_toks": 1, "num_beams": 1, "repetition_penalty": 1.0},
        {"max_gen_toks": 5},
    ],
)
@pytest.mark.parametrize("max_length", [None, 14])
def test_texts_are_those_of_the_large_model(fusion: FusedLM, asked: dict[str, Any], max_length: int | None) -> None:
    generator = random.Random(2)
    texts = ["Hello ", "2 + 2 =", "a" * 40, *(random_text(generator, 20) for _ in range(8)), "<s>given"]
    requests = requests_of("generate_until", [(text, dict(asked)) for text in texts])
    # One by one: the harness looks for a begin-of-text token only in the first text of a batch.
    oracle, found = (model.generate_until(requests, disable_tqdm=True) for model in both(fusion, max_length, 1))
    assert found == oracle


def test_texts_end_after_256_tokens_unless_asked(fusion: FusedLM) -> None:
    requests = requests_of("generate_until", [("Hello", {"until": []})])
    reference, ours = both(fusion)
    assert ours.generate_until(requests, disable_tqdm=True) == reference.generate_until(requests, disable_tqdm=True)
    assert ours.max_gen_toks == reference.max_gen_toks


def test_the_tokenizer_is_asked_alike(fusion: FusedLM) -> None:
    reference, ours = both(fusion)
    for name in ("eot_token_id", "prefix_token_id", "max_length", "max_gen_toks", "tokenizer_name"):
        assert getattr(ours, name) == getattr(reference, name), name
    for text in ("", "a", "<s>a", "a</s>"):
        for special in (None, True, False):
            assert ours.tok_encode(text, special) == reference.tok_encode(text, special)
    assert ours.chat_template(True) == reference.chat_template(True) == CHAT
    chat = [{"role": "you", "content": "Hi"}, {"role": "me", "content": "Hey"}]
    for prompt in (True, False):
        assert ours.apply_chat_template(chat, prompt) == reference.apply_chat_template(chat, prompt)


# Whole evaluations


@pytest.fixture(autouse=True)
def _nothing_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results tell the versions of everything, which takes as long as all of the models."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def evaluate(tasks: Path, **arguments: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    options = {"task_manager": manager, "bootstrap_iters": 0, "apply_chat_template": False, **arguments}
    return lm_eval.simple_evaluate(tasks=list(TASKS), **options)


def metrics(results: dict[str, Any], task: str) -> dict[str, float]:
    values = {name: value for name, value in results["results"][task].items() if isinstance(value, float)}
    assert values
    return values


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize(
    ("fusion", "options"),
    [("plain", {}), ("begins", {"num_fewshot": 2}), ("begins", {"apply_chat_template": True})],
    indirect=["fusion"],
)
def test_every_metric_is_that_of_the_large_model(fusion: FusedLM, tasks: Path, options: dict[str, Any]) -> None:
    oracle, found = (evaluate(tasks, model=model, **options) for model in both(fusion))
    for name in TASKS:
        assert metrics(found, name) == pytest.approx(metrics(oracle, name), rel=1e-5)
        for row, expected in zip(found["samples"][name], oracle["samples"][name], strict=True):
            assert row["arguments"] == expected["arguments"]
            assert _numbers(row["filtered_resps"]) == pytest.approx(_numbers(expected["filtered_resps"]), abs=1e-4)


def _numbers(responses: list) -> list:
    """Likelihoods and whether they are greedy, in one list; texts as they are."""
    return [part for response in responses for part in (response if isinstance(response, tuple) else [response])]


@pytest.mark.parametrize("experts", ["", ",base={base},expert={expert_a};{expert_b},weights=0;0"])
def test_model_args_name_the_folders(tiny_models: dict[str, Path], tasks: Path, experts: str) -> None:
    oracle = evaluate(tasks, model="hf", model_args=f"pretrained={tiny_models['large']}", device="cpu", limit=3)
    arguments = ("large={large},batch_size=2,max_length=2048" + experts).format(**tiny_models)
    found = evaluate(tasks, model="logitfusion", model_args=arguments, limit=3)
    for name in TASKS:
        assert metrics(found, name) == pytest.approx(metrics(oracle, name), rel=1e-5)


def test_experts_change_the_answers(tiny_models: dict[str, Path], tasks: Path) -> None:
    arguments = {"large": tiny_models["large"], "base": tiny_models["base"], "expert": [tiny_models["expert_a"]]}
    alone, steered = (
        evaluate(tasks, model=FusedLMEval(**arguments, weights=weights), limit=3) for weights in (0.0, "dynamic")
    )
    for name in TASKS:
        assert alone["samples"][name] != steered["samples"][name]


def test_model_args_are_passed_on(tiny_models: dict[str, Path]) -> None:
    text = "large={large},base={base},expert={expert_a};{expert_b},weights=1.5;0.5,rule=newton,selection=matched"
    ours = FusedLMEval.create_from_arg_string(text.format(**tiny_models), {"batch_size": "4", "device": None})
    options = ours.lm.steering.options
    assert (options.weights, options.rule, ours.decoding.batch_size) == ((1.5, 0.5), "newton", 4)
    text = "large={large},base={base},expert={expert_a},bounds=0.5;1,step=0.25,max_length=9"
    ours = FusedLMEval.create_from_arg_string(text.format(**tiny_models))
    options = ours.lm.steering.options
    assert (options.weights, options.bounds, options.step) == ("dynamic", (0.5, 1.0), 0.25)
    assert ours.max_length == 9


# What only decoding by chance, the cache and the order of requests show


def test_options_are_grouped_and_the_order_is_kept(fusion: FusedLM) -> None:
    _, ours = both(fusion)
    short, long = {"until": [], "max_gen_toks": 2}, {"until": [], "max_gen_toks": 6}
    arguments = [(text, asked) for text in ("aaaa", "b", "ccc") for asked in (long, short)]
    together = ours.generate_until(requests_of("generate_until", arguments), disable_tqdm=True)
    alone = [ours.generate_until(requests_of("generate_until", [argument]), True)[0] for argument in arguments]
    assert together == alone


def test_the_harness_seed_decides_the_draws(fusion: FusedLM) -> None:
    _, ours = both(fusion)
    asked = {"until": [], "do_sample": True, "temperature": 1.5, "top_p": 0.9, "top_k": 50, "max_gen_toks": 8}
    requests = requests_of("generate_until", [("Hello", asked)] * 3)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ours.generate_until(requests, disable_tqdm=True))
    assert found[0] == found[1] != found[2]
    assert len(set(found[0])) == 3


def test_what_was_cached_is_not_asked_again(fusion: FusedLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = both(fusion)
    kinds = {
        "loglikelihood": [("a", "b"), ("", "c")],
        "loglikelihood_rolling": [("abc",)],
        "generate_until": [("a", {"until": [], "max_gen_toks": 3})],
    }
    caching = CachingLM(ours, str(tmp_path / "cache.db"))
    first = [getattr(caching.lm, kind)(requests_of(kind, arguments)) for kind, arguments in kinds.items()]
    monkeypatch.setattr(FusedLM, "score", None)
    monkeypatch.setattr(FusedLM, "generate", None)
    assert [getattr(caching, kind)(requests_of(kind, arguments)) for kind, arguments in kinds.items()] == first


# Errors


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"until": [], "num_beams": 4}, "num_beams"),
        ({"until": [], "typo": 1, "min_length": 2}, "min_length, typo"),
        ({"until": [], "do_sample": True}, "temperature"),
        ({"until": [], "max_gen_toks": 30}, "max_gen_toks"),
    ],
)
def test_options_of_a_task_that_can_not_be_kept_are_refused(fusion: FusedLM, asked: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        both(fusion, 20)[1].generate_until(requests_of("generate_until", [("a", asked)]), disable_tqdm=True)


def test_a_continuation_that_is_too_long_is_refused(fusion: FusedLM) -> None:
    with pytest.raises(UserError, match="max_length"):
        both(fusion, 5)[1].loglikelihood(requests_of("loglikelihood", [("a", "b" * 6)]), disable_tqdm=True)


def test_a_chat_needs_a_template(tiny_models: dict[str, Path]) -> None:
    ours = FusedLMEval(large=tiny_models["large"])
    with pytest.raises(UserError, match="chat template"):
        ours.apply_chat_template([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "much"},
        {"weights": "1;2;3"},
        {"batch_size": "much"},
        {"batch_size": 0},
        {"bounds": "0;high"},
        {"rule": "typo"},
        {"device": "meta"},
    ],
)
def test_arguments_that_mean_nothing_are_refused(tiny_models: dict[str, Path], options: dict[str, Any]) -> None:
    folders = {"large": tiny_models["large"], "base": tiny_models["base"], "expert": tiny_models["expert_a"]}
    with pytest.raises(UserError):
        FusedLMEval(**{**folders, **options} if options else {})


def test_results_are_json(fusion: FusedLM, tasks: Path) -> None:
    from lm_eval.utils import handle_non_serializable

    found = evaluate(tasks, model=both(fusion)[1], limit=1)
    json.dumps({key: value for key, value in found.items() if key != "samples"}, default=handle_non_serializable)
