"""Where a text ends: at the tokens and stop strings at which transformers' own generate ends it."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_tokenizers import byte_level, sentencepiece, unigram, word_level, wordpiece
from test_fusion_lm import make_chain
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.stopping_criteria import StopStringCriteria

from logitfusion.config.decoding import DecodingOptions
from logitfusion.errors import UserError
from logitfusion.files import read_json, write_json
from logitfusion.fusion import FusedLM, Generation
from logitfusion.fusion.decoding import Continuations
from logitfusion.fusion.ends import TokenBytes, end_tokens, ending_tokens, folder_ends
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.tiny import tiny_tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def feed(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], stop: list[str], *, stream: bool = False
) -> tuple[Generation, list[str]]:
    """A continuation that is given these tokens, and its text after each."""
    grown: list[str] = []
    options = DecodingOptions(max_new_tokens=len(ids), stop=stop)
    notify = (lambda _, generation: grown.append(generation.text)) if stream else None
    continuations = Continuations([len(ids)], options, tokenizer, frozenset(), notify)
    for token in ids:
        if continuations.append(0, token, [], -1):
            break
    return continuations.all[0], grown


def draw_stops(tokenizer: PreTrainedTokenizerBase, ids: list[int], generator: random.Random) -> list[str]:
    """Pieces of what the tokens say, special tokens included, and a special token."""
    text = tokenizer.decode(ids).replace(REPLACEMENT, "")
    starts = [generator.randrange(max(len(text), 1)) for _ in range(generator.randint(1, 3))]
    pieces = [text[start : start + generator.randint(1, 7)] or "x" for start in starts]
    return pieces + generator.choices(tokenizer.all_special_tokens, k=generator.randint(0, 1))


# Against transformers' stopping criterion, token by token

TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": tiny_tokenizer,
    "byte-level": byte_level,
    "prefix space": lambda: byte_level(prefix_space=True),
    "sentencepiece": sentencepiece,
    "sentencepiece, space first": lambda: sentencepiece(prefix="always"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_stop_at_the_token_of_transformers(name: str) -> None:
    tokenizer, generator = TOKENIZERS[name](), random.Random(0)
    stops = 0
    for _ in range(60):
        ids = [generator.randrange(len(tokenizer)) for _ in range(12)]
        stop = draw_stops(tokenizer, ids, generator)
        criterion = StopStringCriteria(tokenizer, stop)
        ends = [place for place in range(1, 13) if criterion(torch.tensor([ids[:place]]), None)[0]]
        found, grown = feed(tokenizer, ids, stop, stream=True)
        assert len(found.token_ids) == min([*ends, 12]), (stop, ids)
        assert found.finish_reason == ("stop" if ends else "length")
        assert found == feed(tokenizer, ids, stop)[0]
        assert all(found.text.startswith(text) for text in grown), (stop, ids)
        stops += bool(ends)
    assert stops > 30


@pytest.mark.parametrize("make", [wordpiece, unigram, word_level])
def test_texts_of_words_stop_where_they_are_read(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    """Where transformers' own criterion raises an error, because it needs a token for "abcdef"."""
    tokenizer, generator = make(), random.Random(0)
    for _ in range(60):
        ids = [generator.randrange(len(tokenizer)) for _ in range(8)]
        word = tokenizer.decode(ids[2:4]).strip() or "x"
        expected = next((place for place in range(1, 9) if word in tokenizer.decode(ids[:place])), 8)
        found, _ = feed(tokenizer, ids, [word])
        assert len(found.token_ids) == expected, (word, ids)


def llama3_like() -> PreTrainedTokenizerBase:
    """Bytes, chat tokens, and three tokens of several characters, one of which ends within a character."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


START, END = 259, 260

CUTS = [
    (["ab", END], ["<|im_end|>"], "ab", 3),
    (["ab", END, "\n"], ["<|im_end|>\n"], "ab", 4),
    (["ab", END, "\ncf"], ["<|im_end|>\nx", "f"], "ab\nc", 6),
    (["ab\n", END], ["\n<|im_end|>"], "ab", 4),
    (["ab", START, "cd"], ["b<|im_start|>c"], "a", 4),
    (["ab", END, "c"], ["im_end|>"], "ab", 3),  # begins within a special token
    (["ab", END, "c"], ["im_end|>c"], "ab", 4),
    (["ab", START, "cd"], ["bc"], "abcd", None),  # a special token is between
    (["ab", START, "cd"], ["d"], "abc", 5),
    (["ab", START, "c"], ["s", "t"], "ab", 3),  # so do transformers and lm-eval's hf
    (["abcdef"], ["cdef", "de"], "abc", 5),  # contains the other
    (["a→→b"], ["→b"], "a→", 8),
    (["a→é"], ["é"], "a→", 6),
    (["a→"], ["→b"], "a→", None),
    (["a<|im_end|>b"], ["<|im_end|>"], "a", 11),  # written in ordinary tokens
    (["ab", 2, 2, "\n"], ["</s>\n"], "ab", 5),
]


@pytest.mark.parametrize(("parts", "stop", "text", "tokens"), CUTS)
def test_texts_are_cut_before_stop_strings(
    parts: list[str | int], stop: list[str], text: str, tokens: int | None
) -> None:
    tokenizer = llama3_like()
    ids = [token for part in parts for token in ([part] if isinstance(part, int) else _spell(tokenizer, part))]
    found, grown = feed(tokenizer, ids, stop, stream=True)
    assert (found.text, found.finish_reason) == (text, "length" if tokens is None else "stop")
    assert len(found.token_ids) == (tokens or len(ids))
    assert all(text.startswith(part) for part in grown)


def _spell(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The bytes of a text, special tokens as ordinary characters."""
    return [token for letter in text for token in tokenizer.encode(letter, add_special_tokens=False)]


def test_a_stop_string_begins_and_ends_within_tokens() -> None:
    tokenizer = byte_level()
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary["the"], vocabulary["Ġcat"], vocabulary["Ġthe"]]
    assert feed(tokenizer, ids, ["e ca"])[0].text == "th"
    assert feed(tokenizer, ids, ["t t"])[0].text == "the ca"
    assert feed(tokenizer, ids, [" "])[0].text == "the"


def test_leading_spaces_of_sentencepiece_are_characters() -> None:
    tokenizer = sentencepiece()
    ids = [tokenizer.get_vocab()[piece] for piece in ("▁cat", "▁cat", "▁sat")]
    assert (feed(tokenizer, ids, [" cat cat"])[0].text, len(feed(tokenizer, ids, [" cat"])[0].token_ids)) == ("", 1)
    assert feed(tokenizer, ids, ["t s"])[0].text == tokenizer.decode(ids[:2])[:-1]


def test_entries_without_a_token_are_in_no_stop_string() -> None:
    tokenizer = tiny_tokenizer()
    a, b = tokenizer.encode("ab")
    found, _ = feed(tokenizer, [a, len(tokenizer) + 3, b], ["ab", REPLACEMENT])
    assert found.finish_reason == "length"


def test_what_no_text_can_have_is_refused() -> None:
    with pytest.raises(UserError, match="not Unicode"):
        FusedLM(make_chain({}), tokenizer=tiny_tokenizer()).generate(["a"], stop=["a", "\udc80"])


def test_long_texts_are_looked_at_by_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token more costs as much at the end of a long text as at its beginning."""
    tokenizer, looked = tiny_tokenizer(), []
    real = TokenBytes.__getitem__
    monkeypatch.setattr(TokenBytes, "__getitem__", lambda self, token: looked.append(token) or real(self, token))
    monkeypatch.setattr(type(tokenizer), "decode", None)
    options = DecodingOptions(max_new_tokens=10**6, stop=["xyz", "éé"])
    continuations = Continuations([10**6], options, tokenizer, {2}, None)
    for _ in range(500):
        continuations.append(0, 70, [], -1)
    assert len(looked) <= 500 * 6


# Whole generations: alone, in batches, streamed, drafted


def make_random(tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends, initializer_range=0.4, tie_word_embeddings=False)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def chat_fusion() -> FusedLM:
    tokenizer = llama3_like()
    models = [make_random(tokenizer, seed) for seed in range(3)]
    return FusedLM(models[0], models[1], [models[2]], tokenizer=tokenizer, weights=0.0)


def continue_by_transformers(lm: FusedLM, prompt: str, **options: object) -> list[int]:
    ids = torch.tensor([lm.encode(prompt)])
    made = lm.large.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, tokenizer=lm.tokenizer, pad_token_id=0, **options
    )
    return made[0, ids.shape[1] :].tolist()


PROMPTS = ["Hello", "a", "2 + 2 =", "Grüße →"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"speculative": True, "draft_tokens": 3}])
def test_generations_stop_where_transformers_stops(chat_fusion: FusedLM, seed: int, options: dict) -> None:
    generator = random.Random(seed)
    plain = chat_fusion.generate(PROMPTS, max_new_tokens=20)
    stop = [word for row in plain for word in draw_stops(chat_fusion.tokenizer, row.token_ids, generator)[:1]]
    stop = [word for word in stop if word[0] not in "".join(prompt[-1] for prompt in PROMPTS)] or ["<|im_end|>"]
    seen: dict[int, list[str]] = {}
    found = chat_fusion.generate(
        PROMPTS,
        max_new_tokens=20,
        stop=stop,
        on_token=lambda number, row: seen.setdefault(number, []).append(row.text),
        **options,
    )
    for number, (prompt, row) in enumerate(zip(PROMPTS, found, strict=True)):
        expected = continue_by_transformers(chat_fusion, prompt, max_new_tokens=20, stop_strings=stop)
        assert row.token_ids == expected, stop
        assert len(seen[number]) == len(row.token_ids)
        assert all(row.text.startswith(text) for text in seen[number])
        assert not any(special in row.text for special in chat_fusion.tokenizer.all_special_tokens)
    assert any(row.finish_reason == "stop" for row in found)


# End tokens


def say(*tokens: int, vocabulary: int = 261, end: int | list[int] | None = 2) -> PreTrainedModel:
    """A model that says these tokens one after another."""
    return make_chain(dict(itertools.pairwise(tokens)), vocabulary, end)


A, B, C, D = (tiny_tokenizer().encode(letter)[0] for letter in "abcd")


@pytest.mark.parametrize("ends", [2, [D], [2, D, 5000, -1], [C, 2], None])
def test_a_large_model_ends_by_its_generation_config(ends: int | list[int] | None) -> None:
    large, tokenizer = say(A, B, C, D, 2, A), tiny_tokenizer()
    large.config.eos_token_id, large.generation_config.eos_token_id = None, ends
    lm = FusedLM(large, tokenizer=tokenizer, ends=())
    found = lm.generate(["a", "b"], max_new_tokens=7)
    allowed = [end for end in (ends if isinstance(ends, list) else [ends or 2]) if 0 <= end < 261] + [2]
    for prompt, row in zip("ab", found, strict=True):
        assert row.token_ids == continue_by_transformers(lm, prompt, max_new_tokens=7, eos_token_id=allowed)
        assert row.finish_reason == "eos"


def test_a_text_config_names_ends() -> None:
    large = say(A, B, C)
    large.config.eos_token_id = None
    large.config.get_text_config = lambda decoder=False: type("Text", (), {"eos_token_id": [B]})()
    assert end_tokens([large], tiny_tokenizer()) == {2, B}


@pytest.mark.parametrize("place", ["config", "generation_config"])
@pytest.mark.parametrize("model", [0, 1, 2, 3])
@pytest.mark.parametrize("weights", [0.0, 1.0, "dynamic"])
def test_any_model_of_a_fusion_ends_a_text(place: str, model: int, weights: float | str) -> None:
    models = [say(A, B, C, D, A) for _ in range(4)]
    getattr(models[model], place).eos_token_id = [2, C]
    lm = FusedLM(models[0], models[1], models[2:], tokenizer=tiny_tokenizer(), weights=weights)
    for options in ({}, {"speculative": True}):
        (row,) = lm.generate(["a"], max_new_tokens=9, **options)
        assert (row.token_ids, row.text, row.finish_reason) == ([B, C], "b", "eos")
    alone = FusedLM(models[0], models[1], tokenizer=tiny_tokenizer())
    assert alone.ends == ({2, C} if model == 0 else {2})


def test_an_end_that_is_also_in_a_stop_string_is_an_end() -> None:
    tokenizer = llama3_like()
    large = say(A, B, END, C, end=[2, END])
    for stop, text in ((["<|im_end|>"], "b"), (["b<|im_end|>"], ""), (["<|im_end|>c"], "b")):
        (row,) = FusedLM(large, tokenizer=tokenizer).generate(["a"], max_new_tokens=9, stop=stop)
        assert (row.token_ids, row.text, row.finish_reason) == ([B, END], text, "eos")


@pytest.fixture(scope="module")
def chat_folders(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models, of which an expert ends its turns by "d" and another by "c", each as its folder alone says."""
    root = tmp_path_factory.mktemp("chat")
    folders = {name: shutil.copytree(folder, root / name) for name, folder in tiny_models.items()}
    settings = read_json(folders["expert_a"] / "tokenizer_config.json")
    write_json(folders["expert_a"] / "tokenizer_config.json", settings | {"eos_token": "d"})
    settings = read_json(folders["expert_b"] / "generation_config.json")
    write_json(folders["expert_b"] / "generation_config.json", settings | {"eos_token_id": [2, C]})
    assert load_tokenizer(folders["expert_a"]).eos_token_id == D
    return folders


def test_folders_name_their_ends(chat_folders: dict[str, Path]) -> None:
    assert folder_ends([chat_folders["large"], chat_folders["base"]]) == {2}
    assert folder_ends(chat_folders.values()) == {2, C, D}
    large, base = chat_folders["large"], chat_folders["base"]
    for name, ends in (("expert_a", {2, D}), ("expert_b", {2, C})):
        assert FusedLM.from_folders(large, base, [chat_folders[name]]).ends == ends
    assert FusedLM.from_folders(large).ends == FusedLM.from_folders(large, chat_folders["expert_a"]).ends == {2}


def test_an_adapter_folder_names_its_ends(
    tiny_models: dict[str, Path], chat_folders: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    for name, files in (("bare", ()), ("chat", ("tokenizer.json", "tokenizer_config.json"))):
        config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        get_peft_model(load_model(tiny_models["base"]), config).save_pretrained(tmp_path / name)
        for file in files:
            shutil.copy(chat_folders["expert_a"] / file, tmp_path / name)
    large, base = tiny_models["large"], tiny_models["base"]
    assert FusedLM.from_folders(large, base, [tmp_path / "bare"]).ends == {2}
    assert FusedLM.from_folders(large, base, [tmp_path / "bare", tmp_path / "chat"]).ends == {2, D}


@pytest.mark.parametrize("stage", ["decode", "tune"])
def test_stages_know_the_ends_of_all_folders(
    chat_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from argparse import Namespace

    from harness_tasks import write_tasks
    from recorded import store

    from logitfusion.config.jobs.fusion import DecodeJob, TuneJob
    from logitfusion.stages import decode, tune
    from logitfusion.stages._stage import parse

    seen: list[frozenset[int]] = []
    real = FusedLM.generate if stage == "decode" else tune.tune
    models = [chat_folders[name] for name in ("large", "base", "expert_a")]
    definitions = write_tasks(tmp_path / "definitions", rows=6)
    sizes = {"training_split": "test", "validation": 2, "test": 1}
    stored = [store(tmp_path / name, "toy_words", definitions, **sizes) for name in ("spelling", "alone")]
    task = {"num_fewshot": None, "generation_kwargs": {"max_gen_toks": 2}}
    steered = {"spelling": task | {"models": ["large", "base", "expert_a"]}}
    given = {"prompting": {}, "loading": {}}
    if stage == "decode":
        monkeypatch.setattr(FusedLM, "generate", lambda lm, *a, **k: seen.append(lm.ends) or real(lm, *a, **k))
        method = {"options": {}, "decoding": {"batch_size": 2, "seed": 0}, "prompting": {}}
        method |= {"tasks": steered | {"alone": task | {"models": ["large"]}}}
        given = {"methods": {"any": method}, "loading": {}, "split": "test", "shards": 1}
        job = parse(DecodeJob, json.dumps(given))
        files = {"documents": stored, "models": models, "output": tmp_path / "out", "tuned": []}
        decode.main(Namespace(shard=0, protocol=None, **files), job)
        assert seen == [{2, D}, {2}]
    else:
        monkeypatch.setattr(tune, "tune", lambda lm, *a, **k: seen.append(lm.ends) or real(lm, *a, **k))
        given |= {"options": {}, "tune": {}, "seed": 0, "batch_size": 2, "groups": [["spelling"]], "tasks": steered}
        job = parse(TuneJob, json.dumps(given))
        tune.main(Namespace(documents=stored, models=models, output=tmp_path / "out"), job)
        assert seen == [{2, D}]


def test_tuning_counts_every_end() -> None:
    models = [say(A, B, C) for _ in range(3)]
    models[2].generation_config.eos_token_id = [2, C]
    lm = FusedLM(models[0], models[1], models[2:], tokenizer=llama3_like())
    assert ending_tokens(lm.ends, (), lm.tokenizer, lm.vocabulary) == [2, C]
    assert ending_tokens(lm.ends, ("<|im_end|>", "d"), lm.tokenizer, lm.vocabulary) == [2, C, D, END]
