"""The harness model takes what lm-eval's own takes, or refuses it by name; its command line too."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from commands import refuse, run
from harness_tasks import write_tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from small_tokenizers import byte_level, sentencepiece
from sqlitedict import SqliteDict
from test_fusion_lm import make_chain
from test_stops import draw_stops, llama3_like, make_random
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from logitfusion.cli import evaluate
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.lm_eval_arguments import _MODEL_ARGUMENTS, read_generation
from logitfusion.models.load import save_model
from logitfusion.models.tiny import tiny_tokenizer

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}me{{ '?' if enable_thinking else '!' }}{% endif %}"
)


def asks(arguments: list[tuple[str, dict[str, Any]]]) -> list[Instance]:
    return [Instance("generate_until", {}, argument, number) for number, argument in enumerate(arguments)]


def both(model: Any, tokenizer: PreTrainedTokenizerBase, **options: Any) -> tuple[HFLM, FusedLMEval]:
    """The harness's own model, one row at a time, and ours."""
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, **options)
    return reference, FusedLMEval(FusedLM(model, tokenizer=tokenizer), batch_size=3, **options)


# Texts


@pytest.mark.parametrize("make", [llama3_like, byte_level, sentencepiece], ids=["bytes", "bpe", "sentencepiece"])
def test_texts_end_where_those_of_hf_end(make: Any) -> None:
    tokenizer, generator = make(), random.Random(0)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = make_random(tokenizer, 0)
    reference, ours = both(model, tokenizer)
    plain = ours.lm.generate(["Hello", "the cat"], max_new_tokens=12)
    arguments = []
    for prompt, row in zip(["Hello", "the cat"] * 6, plain * 6, strict=True):
        until = draw_stops(tokenizer, row.token_ids, generator)
        arguments.append((prompt, {"until": until, "max_gen_toks": 12}))
    oracle, found = (lm.generate_until(asks(arguments), disable_tqdm=True) for lm in (reference, ours))
    assert found == oracle
    assert len({len(text) for text in found}) > 2


@pytest.mark.parametrize("mark", ["→", 60, "60", "xyz"])
def test_thoughts_are_cut_as_hf_cuts_them(mark: str | int) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("abc→ de\nf→ ghZijk")
    model = make_chain(dict(itertools.pairwise(ids)))
    reference, ours = both(model, tokenizer, think_end_token=mark)
    arguments = [("ab", {"until": ["\n", "Z"], "max_gen_toks": count}) for count in (3, 5, 9, 14)]
    oracle, found = (lm.generate_until(asks(arguments), disable_tqdm=True) for lm in (reference, ours))
    assert found == oracle


GENERATIONS = [
    ({}, {"max_new_tokens": 256, "temperature": 0.0}),
    ({"temperature": 0.7}, {"temperature": 0.7, "top_k": 50}),
    ({"do_sample": True, "temperature": 0.7, "top_k": 0}, {"temperature": 0.7, "top_k": 0}),
    ({"do_sample": False, "temperature": 0.7, "top_p": 0.5}, {"temperature": 0.0}),
    ({"do_sample": 0, "temperature": 0.7}, {"temperature": 0.0}),
    ({"temperature": None, "top_p": None}, {"temperature": 0.0}),
    ({"temperature": "0.5", "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9, "top_k": 50}),
    ({"max_tokens": 3}, {"max_new_tokens": 3}),
    ({"max_completion_tokens": 4.0, "max_new_tokens": None}, {"max_new_tokens": 4}),
    ({"max_new_tokens": 5, "max_gen_toks": 6}, {"max_new_tokens": 6}),
    ({"num_beams": 1, "num_return_sequences": 1, "min_p": None, "presence_penalty": 0}, {"temperature": 0.0}),
]


@pytest.mark.parametrize(("asked", "options"), GENERATIONS)
def test_generation_kwargs_mean_what_they_mean_to_hf(asked: dict, options: dict) -> None:
    found = read_generation(asked, 256, "</s>").options
    assert {name: found[name] for name in options} == options
    assert ("top_k" in found) == (found["temperature"] > 0)


@pytest.mark.parametrize(
    ("until", "words"),
    [(None, []), ("a", ["a"]), (["a", None, "b"], ["a", "b"]), ([], []), (["</s>"], []), ("", [])],
)
def test_until_is_a_text_or_several(until: Any, words: list[str]) -> None:
    assert read_generation({"until": until}, 9, "</s>").until == [*words, "</s>"]
    assert read_generation({"until": until}, 9, None).until == [*words, *(["</s>"] if until == ["</s>"] else [])]


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"num_return_sequences": 3}, "num_return_sequences"),
        ({"min_p": 0.1, "typical_p": 0.9}, "min_p, typical_p"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"max_length": 50}, "max_gen_toks"),
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
        ({"do_sample": True}, "temperature"),
        ({"do_sample": "maybe", "temperature": 1.0}, "do_sample"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": "hot"}, "number"),
        ({"max_gen_toks": "many"}, "number"),
        ({"max_gen_toks": -1}, "max_new_tokens"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_k": -1}, "top_k"),
        ({"until": [3]}, "until"),
        ({"until": {"a": 1}}, "until"),
    ],
)
def test_generation_kwargs_that_mean_nothing_are_refused(asked: dict, word: str) -> None:
    ours = FusedLMEval(FusedLM(make_chain({}), tokenizer=tiny_tokenizer()))
    with pytest.raises(UserError, match=word):
        ours.generate_until(asks([("a", asked)]), disable_tqdm=True)


# Limits


def make_gpt2(positions: int, seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 259, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": positions}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.4, bos_token_id=1, eos_token_id=2)).eval()


@pytest.mark.parametrize("sizes", [(64, 16, 32), (16, 64, 64), (64, 64, 16)])
def test_the_shortest_context_is_the_limit(sizes: tuple[int, int, int], caplog: pytest.LogCaptureFixture) -> None:
    large, base, expert = (make_gpt2(size, seed) for seed, size in enumerate(sizes))
    tokenizer = tiny_tokenizer()
    fusion = FusedLM(large, base, [expert], tokenizer=tokenizer, weights=0.0)
    ours, reference = FusedLMEval(fusion), HFLM(pretrained=large, tokenizer=tokenizer, max_length=16)
    assert ours.max_length == 16
    pairs = [Instance("loglikelihood", {}, pair, 0) for pair in (("a" * 30, " yes"), ("ab", "c" * 15), ("a", "b"))]
    texts = asks([("ab" * 15, {"max_gen_toks": 5}), ("a", {"max_gen_toks": 15})])
    rolled = [Instance("loglikelihood_rolling", {}, ("abc" * 20,), 0)]
    for kind, requests in (("loglikelihood", pairs), ("loglikelihood_rolling", rolled), ("generate_until", texts)):
        oracle, found = (getattr(model, kind)(requests, disable_tqdm=True) for model in (reference, ours))
        if kind == "generate_until":
            assert found == oracle
        else:
            assert torch.allclose(torch.tensor(found), torch.tensor(oracle), atol=1e-4)
    lost = [record.message for record in caplog.records if record.name == "logitfusion.fusion.lm_eval"]
    assert lost == [f"1 of {total} contexts lose their beginning: the models read 16 tokens." for total in (3, 1)]


# model_args


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "bfloat16"}, "fp32"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"parallelize": True}, "CUDA_VISIBLE_DEVICES"),
        ({"peft": "adapter"}, "expert"),
        ({"add_bos_token": False}, "add_bos_token"),
        ({"backend": "seq2seq"}, "causal"),
        ({"revision": "v2"}, "folders"),
        ({"pretrained": "gpt2"}, "large"),
        ({"tokenizer": "gpt2"}, "tokenizer"),
        ({"truncation": True}, "truncation"),
        ({"wieghts": 1.0}, "did you mean 'weights'"),
        ({"experts": "a"}, "did you mean 'expert'"),
        ({"batch_size": "auto:4"}, "auto:4"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": "long"}, "max_length"),
        ({"max_gen_toks": -1}, "max_gen_toks"),
        ({"chat_template": "tools"}, "tools"),
        ({"chat_template_args": "[1]"}, "JSON"),
        ({"chat_template_args": "{"}, "JSON"),
        ({"enable_thinking": True}, "think_end_token"),
    ],
)
def test_model_args_that_can_not_be_kept_are_refused(tiny_models: dict[str, Path], options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        FusedLMEval(large=tiny_models["large"], **options)


def test_model_args_of_hf_are_all_known() -> None:
    import inspect

    known = {*_MODEL_ARGUMENTS, *inspect.signature(FusedLMEval).parameters}
    assert set(inspect.signature(HFLM).parameters) - {"kwargs"} <= known


def test_model_args_that_change_nothing_are_taken(tiny_models: dict[str, Path]) -> None:
    neutral = "dtype=float32,trust_remote_code=False,parallelize=False,revision=main,backend=causal,peft=None"
    text = f"large={tiny_models['large']},{neutral},max_gen_toks=7,max_length=99,enable_thinking=False"
    ours = FusedLMEval.create_from_arg_string(text, {"batch_size": 3, "device": "cpu", "max_batch_size": 64})
    assert (ours.max_gen_toks, ours.max_length, ours.decoding.batch_size) == (7, 99, 3)
    assert ours.chat_template_args == {"enable_thinking": False}
    assert ours.get_model_info()["model_num_parameters"] == sum(part.numel() for part in ours.lm.large.parameters())


def test_a_fusion_has_its_options_already(tiny_models: dict[str, Path]) -> None:
    lm = FusedLM.from_folders(tiny_models["large"])
    for options in ({"weights": 0.5}, {"base": tiny_models["base"]}, {"expert": "a"}):
        with pytest.raises(UserError, match="already"):
            FusedLMEval(lm, **options)


def test_templates_are_rendered_as_hf_renders_them(tiny_models: dict[str, Path]) -> None:
    tokenizer = llama3_like()
    tokenizer.chat_template = CHAT
    options = {"enable_thinking": True, "think_end_token": "x", "chat_template_args": {"other": 1}}
    chat = [{"role": "you", "content": "Hi"}]
    reference, ours = both(make_random(tokenizer, 0), tokenizer, **options)
    assert ours.apply_chat_template(chat) == reference.apply_chat_template(chat) == "<s>you: Hi\nme?"
    with pytest.raises(UserError, match="enable_thinking"):
        ours.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)], disable_tqdm=True)
    tokenizer.chat_template = {"default": CHAT, "short": "{{ messages[0].content }}"}
    lm = FusedLM(make_random(tokenizer, 0), tokenizer=tokenizer)
    assert FusedLMEval(lm, chat_template="short").apply_chat_template(chat) == "Hi"


# Whole evaluations


@pytest.fixture(autouse=True)
def _nothing_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results tell the versions of everything, which takes as long as all of the models."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    for name, changes in {"toy_code": {"unsafe_code": True}, "toy_bare": {"fewshot_split": None}}.items():
        definition = yaml.safe_load((folder / "toy_words.yaml").read_text(encoding="utf-8"))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition | {"task": name} | changes), encoding="utf-8")
    group = {"group": "toys", "task": ["toy_choice", "toy_words"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "toys.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model with a chat template."""
    tokenizer, folder = llama3_like(), tmp_path_factory.mktemp("chat")
    tokenizer.chat_template = CHAT
    save_model(make_random(tokenizer, 0), tokenizer, folder)
    return folder


CALLS = [
    {"apply_chat_template": True, "system_instruction": "Be brief.", "num_fewshot": 2},
    {"apply_chat_template": True, "num_fewshot": 1, "fewshot_as_multiturn": False},
    {"system_instruction": "Be brief.", "gen_kwargs": "max_gen_toks=3,until=o", "fewshot_random_seed": 7},
    {"predict_only": True, "gen_kwargs": {"max_new_tokens": 4, "max_gen_toks": None}, "num_fewshot": 1},
]


@pytest.mark.parametrize("options", CALLS)
def test_evaluations_are_those_of_hf(chat_model: Path, tasks: Path, options: dict[str, Any], tmp_path: Path) -> None:
    folder = {"hf": {"pretrained": str(chat_model)}, "logitfusion": {"large": str(chat_model)}}
    oracle, found = (
        lm_eval.simple_evaluate(
            model=name,
            model_args=folder[name],
            device="cpu",
            batch_size=1,
            tasks=["toys"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            limit=4,
            bootstrap_iters=0,
            use_cache=str(tmp_path / name),
            **options,
        )
        for name in ("hf", "logitfusion")
    )
    assert found["results"].keys() == oracle["results"].keys() >= {"toys", "toy_choice"}
    for name in ("toy_choice", "toy_words"):
        for ours, expected in zip(found["samples"][name], oracle["samples"][name], strict=True):
            assert ours["arguments"] == expected["arguments"]
            if name == "toy_words":
                assert ours["resps"] == expected["resps"]
    for key in ("fewshot_seed", "gen_kwargs", "limit"):
        assert found["config"][key] == oracle["config"][key]
    cached, expected = (set(SqliteDict(str(tmp_path / f"{name}_rank0.db"))) for name in ("logitfusion", "hf"))
    assert cached == expected != set()


# The command


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness without its own thousands of definitions, which take ten seconds to read."""
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager",
        lambda include_path, metadata=None, **_: TaskManager(
            include_path=include_path, include_defaults=False, metadata=metadata
        ),
    )


@pytest.fixture
def command(chat_model: Path, tasks: Path) -> list[str | Path]:
    return ["evaluate", "--large", chat_model, "--include-path", tasks, "--limit", "3", "--tasks"]


def test_samples_are_kept(capsys: pytest.CaptureFixture[str], command: list, tmp_path: Path) -> None:
    generation = ["--gen-kwargs", '{"max_gen_toks": 2, "until": ["a,b"]}', "--seed", "1,None,3,4"]
    chat = ["--apply-chat-template", "--chat-template-args", '{"enable_thinking": true}', "--num-fewshot", 1]
    single = ["--fewshot-as-multiturn", "false", "--system-instruction", "Be brief."]
    output = tmp_path / "results.json"
    options = [*generation, *chat, *single, "--log-samples", "--output", output, "--metadata", "note=5"]
    assert "exact_match" in run(capsys, *command, "toy_words", *options)
    results = read_json(output)
    rows = results["samples"]["toy_words"]
    assert len(rows) == 3
    prompt, asked = rows[0]["arguments"][0]
    assert prompt.startswith("<s>system: Be brief.")
    assert prompt.endswith("me?")
    assert prompt.count("<s>") == 2
    assert asked["max_gen_toks"] == 2
    assert asked["until"] == ["a,b"]
    seeds = {name: results["config"][f"{name}_seed"] for name in ("random", "numpy", "torch", "fewshot")}
    assert seeds == {"random": 1, "numpy": None, "torch": 3, "fewshot": 4}
    assert "samples" not in _evaluated(capsys, command, output)


def _evaluated(capsys: pytest.CaptureFixture[str], command: list, output: Path) -> dict[str, Any]:
    run(capsys, *command, "toy_words", "--output", output)
    return read_json(output)


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_the_command_line_wins_against_the_task(
    capsys: pytest.CaptureFixture[str], command: list, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "results.json"
    options = ["--gen-kwargs", f"{name}=1,until=[]", "temperature=0.5", "--log-samples", "--output", output]
    run(capsys, *command, "toy_words", *options)
    (row, *_) = read_json(output)["samples"]["toy_words"]
    assert row["arguments"][0][1] == {"max_gen_toks": 1, "until": [], "do_sample": False, "temperature": 0.5}
    assert "do_sample=true" in caplog.text


def test_answers_alone_are_kept(capsys: pytest.CaptureFixture[str], command: list, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    run(capsys, *command, "toy_words", "--predict-only", "--output", output)
    results = read_json(output)
    assert len(results["samples"]["toy_words"]) == 3
    assert not any("exact_match" in name for name in results["results"]["toy_words"])


def test_tasks_that_run_code_need_a_word(capsys: pytest.CaptureFixture[str], command: list, tasks: Path) -> None:
    assert "--confirm-run-unsafe-code" in refuse(capsys, *command, "toy_code")
    assert "toy_code" in run(capsys, *command, "toy_code", "--confirm-run-unsafe-code")
    error = ValueError("Attempted to run task: x which is marked as unsafe. Set confirm_run_unsafe_code=True to ...")
    assert "--confirm-run-unsafe-code" in evaluate._explain(error, "x,y")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", 0], "--limit"),
        (["--limit", -3], "--limit"),
        (["--limit", 2.5], "--limit"),
        (["--limit", "nan"], "--limit"),
        (["--num-fewshot", -1], "--num-fewshot"),
        (["--num-fewshot", 50], "toy_words"),
        (["--seed", "a"], "--seed"),
        (["--seed", "1,2"], "--seed"),
        (["--seed", "-1"], "--seed"),
        (["--seed", 2**32], "--seed"),
        (["--gen-kwargs", "temperature"], "--gen-kwargs"),
        (["--gen-kwargs", "{temperature: 1}"], "--gen-kwargs"),
        (["--gen-kwargs", "num_beams=4"], "num_beams"),
        (["--gen-kwargs", "do_sample=true"], "temperature"),
        (["--gen-kwargs", "max_gen_toks=100000"], "max_gen_toks"),
        (["--metadata", "x"], "--metadata"),
        (["--log-samples"], "--output"),
        (["--predict-only"], "--output"),
        (["--fewshot-as-multiturn"], "--apply-chat-template"),
        (["--chat-template-args", "{}"], "--apply-chat-template"),
        (["--apply-chat-template", "tools"], "tools"),
        (["--apply-chat-template", "--chat-template-args", "x"], "JSON"),
    ],
)
@pytest.mark.usefixtures("few_tasks")
def test_the_command_refuses_what_it_can_not_do(
    capsys: pytest.CaptureFixture[str], command: list, options: list, words: str
) -> None:
    assert words in refuse(capsys, *command, "toy_words", *options)


@pytest.mark.usefixtures("few_tasks")
def test_unknown_groups_and_missing_examples_are_refused(
    capsys: pytest.CaptureFixture[str], command: list, tasks: Path, tmp_path: Path
) -> None:
    assert "'toyz'" in refuse(capsys, *command, "toyz")
    for change, words in (({"doc_to_text": "{{nothing.at.all}}"}, "nothing"), ({"test_split": "gone"}, "toy_new")):
        definition = yaml.safe_load((tasks / "toy_words.yaml").read_text(encoding="utf-8"))
        (tmp_path / "new.yaml").write_text(yaml.safe_dump(definition | {"task": "toy_new"} | change), encoding="utf-8")
        assert words in refuse(capsys, *command[:3], "--include-path", tmp_path, "--tasks", "toy_new")


def test_errors_of_the_model_are_no_errors_of_tasks(tiny_models: dict[str, Path]) -> None:
    def fail() -> None:
        FusedLM.from_folders(tiny_models["large"]).score(["a"], [object()])

    for call, ours in ((fail, True), (lambda: json.loads("{"), False), (lambda: random.sample([1], 3), False)):
        with pytest.raises(Exception) as caught:  # noqa: PT011, any of them
            call()
        assert evaluate._is_ours(caught.value) == ours
