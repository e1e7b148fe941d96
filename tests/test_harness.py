"""The harness model takes what lm-eval's own takes, by the same rules, or refuses it by name."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from small_tokenizers import byte_level, framed, sentencepiece
from test_fusion_lm import make_chain
from test_stops import draw_stops, llama3_like, make_random
from test_text import make_model
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.fusion.lm_eval_arguments import _MODEL_ARGUMENTS, read_generation
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


SPECIAL = [["<|im_end|>"], ["<|im_end|>c"], ["b<|im_end|>"], ["im_end|>"], ["bc"], ["m"], ["<|im_end|>x", "d"], ["→"]]


def test_special_tokens_stop_where_they_stop_hf() -> None:
    tokenizer = llama3_like()
    ids = [*tokenizer.encode("ab"), 260, *tokenizer.encode("cd→ef"), 259, 2]
    reference, ours = both(make_chain(dict(itertools.pairwise(ids)), len(tokenizer)), tokenizer)
    requests = asks([("a", {"until": until, "max_gen_toks": 12}) for until in SPECIAL])
    oracle, found = (lm.generate_until(requests, disable_tqdm=True) for lm in (reference, ours))
    assert found == oracle
    assert found[:2] == ["b", "bc"]  # the second holds what hf does not cut: its text has no special tokens


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
        ({"dtype": "float8"}, "dtype must be one of auto, float32"),
        ({"softmax_dtype": "bfloat16"}, "fp32"),
        ({"device_map": "moon"}, "can't be put on 'moon'"),
        ({"attn_implementation": "fast"}, "attn_implementation must be one of auto, sdpa"),
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
        ({"batch_size": "auto:many"}, "batch_size"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": "long"}, "max_length"),
        ({"max_gen_toks": -1}, "max_gen_toks"),
        ({"chat_template_name": "tools"}, "chat template"),
        ({"chat_template_args": "[1]"}, "JSON"),
        ({"chat_template_args": "{"}, "JSON"),
        ({"enable_thinking": True}, "think_end_token"),
    ],
)
def test_model_args_that_can_not_be_kept_are_refused(tiny_models: dict[str, Path], options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        FusedLMEval(large=tiny_models["large"], **options)


def test_model_args_say_how_models_are_loaded(tiny_models: dict[str, Path]) -> None:
    text = f"large={tiny_models['large']},dtype=bfloat16,attn_implementation=eager,device_map=cpu"
    ours = FusedLMEval.create_from_arg_string(text, {"batch_size": "auto:4"})
    assert (ours.lm.large.dtype, ours.lm.large.config._attn_implementation) == (torch.bfloat16, "eager")
    assert ours.decoding.batch_size == "auto"
    assert ours.get_model_info()["model_dtype"] == "torch.bfloat16"
    half = FusedLMEval(large=tiny_models["large"], dtype="fp16", device_map="auto")
    assert half.lm.large.dtype == torch.float16


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


@pytest.mark.parametrize("frame", [[], ["[gMASK]", "<sop>"]])
def test_an_empty_text_follows_what_the_tokenizer_puts_before_texts(frame: list[str]) -> None:
    tokenizer = framed(tiny_tokenizer(), frame, [])
    tokenizer.bos_token = tokenizer.eos_token = None
    model = FusedLMEval(FusedLM(make_model(tokenizer), tokenizer=tokenizer))
    empty = Instance("generate_until", {}, ("", {"until": ["b"], "max_gen_toks": 2}), 0)
    whole = Instance("loglikelihood_rolling", {}, ("a",), 0)
    for answer, request in ((model.generate_until, empty), (model.loglikelihood_rolling, whole)):
        if frame:
            assert len(answer([request], disable_tqdm=True)) == 1
            continue
        with pytest.raises(UserError, match="neither; set its bos_token"):
            answer([request], disable_tqdm=True)


def test_a_fusion_has_its_options_already(tiny_models: dict[str, Path]) -> None:
    lm = FusedLM.from_folders(tiny_models["large"])
    for options in ({"weights": 0.5}, {"base": tiny_models["base"]}, {"expert": "a"}):
        with pytest.raises(UserError, match="already"):
            FusedLMEval(lm, **options)


def test_templates_are_rendered_as_hf_renders_them(tiny_models: dict[str, Path]) -> None:
    tokenizer = llama3_like()
    tokenizer.chat_template = CHAT
    options = {"enable_thinking": True, "think_end_token": "x"}
    chat = [{"role": "you", "content": "Hi"}]
    reference, ours = both(make_random(tokenizer, 0), tokenizer, **options)
    assert ours.apply_chat_template(chat) == reference.apply_chat_template(chat) == "<s>you: Hi\nme?"
    with pytest.raises(UserError, match="enable_thinking"):
        ours.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)], disable_tqdm=True)
    tokenizer.chat_template = {"default": CHAT, "short": "{{ messages[0].content }}"}
    lm = FusedLM(make_random(tokenizer, 0), tokenizer=tokenizer)
    assert FusedLMEval(lm, chat_template_name="short").apply_chat_template(chat) == "Hi"
