"""One encoder of texts: the same ids for decoding, scoring, training, teachers and the harness."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from commands import refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from small_tokenizers import (
    byte_level,
    framed,
    llama_2,
    sentencepiece,
    stripping,
    t5,
    unigram,
    word_level,
    wordpiece,
)
from tokenizers import normalizers
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from logitfusion.distill.encoding import encode_text
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.models.load import save_model
from logitfusion.models.text import TextEncoder
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.models.vocabulary import load_shared_tokenizer
from logitfusion.training.finetune import encode_examples

KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "tiny": tiny_tokenizer,
    "byte level": byte_level,
    "byte level with a space before": lambda: byte_level(prefix_space=True),
    "byte level after NFC": lambda: byte_level(normalizer=normalizers.NFC()),
    "byte level in lower case": lambda: byte_level(normalizer=normalizers.Lowercase()),
    "byte level, stripped": lambda: stripping(byte_level()),
    "sentencepiece": sentencepiece,
    "sentencepiece with a space before": lambda: sentencepiece(prefix="always"),
    "sentencepiece with a space before unless there is one": lambda: sentencepiece(prefix="first"),
    "sentencepiece with a space before, stripped": lambda: stripping(sentencepiece(prefix="always")),
    "llama 2": llama_2,
    "unigram": unigram,
    "t5": t5,
    "wordpiece": wordpiece,
    "word level": word_level,
}
FRAMES = {
    "nothing": ([], []),
    "begin": (["<s>"], []),
    "end": ([], ["</s>"]),
    "both": (["<s>"], ["</s>"]),
    "two before": (["[gMASK]", "<sop>"], []),
    "as of BERT": (["[CLS]"], ["[SEP]"]),
}
SLOW = ByT5Tokenizer()  # puts </s> after texts


def make(kind: str, frame: str = "nothing") -> PreTrainedTokenizerBase:
    return framed(KINDS[kind](), *FRAMES[frame])


ALONE = {kind: make(kind) for kind in KINDS}
# These say of all ids what text they are.
LOSSLESS = [kind for kind in KINDS if kind not in ("unigram", "t5", "wordpiece", "word level")]


def make_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)).eval()


# Prompts


@pytest.mark.parametrize(("kind", "frame"), [*product(KINDS, FRAMES), ("slow", "end")])
def test_all_read_the_same_ids(kind: str, frame: str) -> None:
    tokenizer = SLOW if kind == "slow" else make(kind, frame)
    fusion = FusedLM(make_model(tokenizer), tokenizer=tokenizer)
    before = tokenizer.convert_tokens_to_ids(FRAMES[frame][0])
    for text in ("the cat", "hello", "The cat, 123\nhello", "".join(FRAMES[frame][0]) + "the cat", "the cat</s>"):
        plain = tokenizer.encode(text, add_special_tokens=False)
        expected = plain if before and plain[: len(before)] == before else [*before, *plain]
        assert fusion.encode(text) == expected
        assert list(fusion.encode_pair(text, " sat")[0]) == expected
        assert FusedLMEval(fusion, max_length=64).tok_encode(text) == expected
        example = encode_examples([{"prompt": text, "completion": " sat"}], tokenizer, 500)[0]
        assert example["input_ids"][: -example["completion"]] == expected
        if tokenizer.is_fast:
            taught = encode_text(tokenizer, text, " sat")
            assert list(taught.ids[: taught.start]) == expected
            assert list(taught.ids) == example["input_ids"]


@pytest.mark.parametrize("kind", ["tiny", "sentencepiece", "llama 2"])
def test_a_tokenizer_may_be_told_to_add_its_tokens(kind: str) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make(kind).backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        add_bos_token=True,
        add_eos_token=True,
    )
    ids = tokenizer.encode("the cat")
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert TextEncoder(tokenizer).prompt("the cat") == TextEncoder(tokenizer).prompt("<s>the cat") == ids[:-1]


def test_the_letters_of_a_token_are_not_the_token() -> None:
    tokenizer = make("byte level", "begin")
    tokenizer.bos_token = "<s>"
    ids = TextEncoder(tokenizer).prompt("<s >the")
    assert ids.count(tokenizer.bos_token_id) == 1
    tokenizer.bos_token = None  # the end of text is no beginning where the tokenizer adds another one
    assert TextEncoder(tokenizer).prompt("<|endoftext|>the")[:2] == [
        tokenizer.convert_tokens_to_ids("<s>"),
        tokenizer.eos_token_id,
    ]


def test_models_that_read_texts_differently_are_not_fused(tmp_path: Path) -> None:
    for name, frame in (("with", "begin"), ("without", "nothing")):
        tokenizer = make("tiny", frame)
        save_model(make_model(tokenizer), tokenizer, tmp_path / name)
    with pytest.raises(UserError, match=r"with'.*without'.*before a text.*<s>.*add_bos_token"):
        load_shared_tokenizer([tmp_path / "with", tmp_path / "without"])


# Completions

WORDS = st.lists(
    st.sampled_from(["the", "cat", " ", "  ", "\n", "é", "e\u0301", "👍", "你好", "A", ".", ",", "1", "</s>"]),
    max_size=6,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(LOSSLESS), prompt=WORDS, completion=WORDS)
def test_prompt_and_completion_are_the_text(kind: str, prompt: str, completion: str) -> None:
    tokenizer, prompt = ALONE[kind], f"the {prompt}"
    before, after = TextEncoder(tokenizer).example(prompt, completion)
    if "</s>" in completion or "</s>" in prompt:  # others put a space after it
        assert tokenizer.eos_token_id not in after
        return
    assert tokenizer.decode(before + after) == tokenizer.decode(tokenizer.encode(prompt + completion))


@pytest.mark.parametrize("space", ["", " ", "\n"])
@pytest.mark.parametrize("kind", ["llama 2", "sentencepiece with a space before", "t5", "byte level, stripped"])
def test_no_space_comes_or_goes_between_prompt_and_completion(kind: str, space: str) -> None:
    tokenizer = ALONE[kind]
    expected = tokenizer.decode(tokenizer.encode(f"the cat{space}sat there"))
    assert expected.split() == f"the cat{space}sat there".split()
    for prompt, completion in (("the cat", f"{space}sat there"), (f"the cat{space}", "sat there")):
        before, after = TextEncoder(tokenizer).example(prompt, completion)
        assert tokenizer.decode(before + after) == expected
        encoded = encode_text(tokenizer, prompt, completion)
        assert tokenizer.decode(encoded.ids[:-1]) == expected
        assert encoded.ends[-2:] == (len(completion), len(completion) + 1)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(["tiny", "byte level", "byte level after NFC", "sentencepiece", "wordpiece"]), text=WORDS)
def test_others_encode_a_completion_alone(kind: str, text: str) -> None:
    tokenizer = ALONE[kind]
    expected = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TextEncoder(tokenizer).example("the cat:", text)[1] == expected


@pytest.mark.parametrize("splits", [False, True])
def test_a_tokenizer_is_left_as_it_was(splits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers keeps what a call says of special tokens in the backend, where other users of it find it."""
    tokenizer = byte_level()
    tokenizer.split_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens = splits
    encoded = encode_text(tokenizer, "the cat", f"sat{tokenizer.eos_token}")
    assert tokenizer.eos_token_id not in encoded.ids[:-1]
    assert tokenizer.backend_tokenizer.encode_special_tokens is splits

    def fail(**_: object) -> None:
        assert tokenizer.backend_tokenizer.encode_special_tokens
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "_convert_encoding", fail)
    with pytest.raises(KeyboardInterrupt):
        TextEncoder(tokenizer)._encode("sat</s>", special=False)
    assert tokenizer.backend_tokenizer.encode_special_tokens is splits


@pytest.mark.parametrize("kind", ["llama 2", "sentencepiece with a space before"])
def test_what_follows_nothing_or_a_special_token_begins_as_a_text_does(kind: str) -> None:
    tokenizer = ALONE[kind]
    begun = tokenizer.encode("the cat", add_special_tokens=False)
    for prompt in ("", "<s>", "hello</s>"):
        assert TextEncoder(tokenizer).example(prompt, "the cat")[1] == begun
        assert tokenizer.encode(prompt + "the cat", add_special_tokens=False)[-len(begun) :] == begun


@pytest.mark.parametrize("kind", ["unigram", "t5"])
def test_no_space_comes_after_an_unknown_sign(kind: str) -> None:
    tokenizer = ALONE[kind]
    before, after = TextEncoder(tokenizer).example("the \u16a0", "cat")
    assert before[-1] == tokenizer.unk_token_id
    assert before + after == tokenizer.encode("the \u16a0cat", add_special_tokens=False)


def test_an_empty_prompt_is_the_first_token() -> None:
    assert encode_examples([{"prompt": "", "completion": "a"}], tiny_tokenizer(), 9)[0]["input_ids"][0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_training_needs_an_end_of_text(kind: str) -> None:
    tokenizer = make(kind)
    tokenizer.eos_token, tokenizer.name_or_path = None, "models/endless"
    with pytest.raises(UserError, match=r"models/endless.*no end-of-text.*eos_token"):
        encode_examples([{"prompt": "the", "completion": "cat"}], tokenizer, 9)


# Pairs

PAIRS = [
    ("the cat", " sat"),
    ("the cat ", "sat"),
    ("hello", "\n\nnew lines"),
    ("<s>the cat", " sat"),
    ("the cat", " hello </s>"),
    ("", "hello"),
    ("", " hello"),
    ("", "<s>hello"),
    ("hello  ", "world"),
]


@pytest.mark.parametrize("frame", ["nothing", "begin"])
@pytest.mark.parametrize(
    "kind", ["tiny", "byte level", "sentencepiece", "sentencepiece with a space before", "llama 2"]
)
def test_pairs_are_those_of_the_harness(kind: str, frame: str) -> None:
    tokenizer = make(kind, frame)
    tokenizer.bos_token, tokenizer.pad_token = "<s>", "</s>"
    model, told = make_model(tokenizer), []
    harness, ours = HFLM(pretrained=model, tokenizer=tokenizer), FusedLMEval(FusedLM(model, tokenizer=tokenizer))
    requests = [type("Request", (), {"args": pair}) for pair in PAIRS]
    for lm in (harness, ours):
        lm._loglikelihood_tokens = lambda requests, **_: told.append(
            [(texts, list(before), list(after)) for texts, before, after in requests]
        )
        lm.loglikelihood(requests, disable_tqdm=True)
    assert told[0] == told[1]
    for text in ("the cat", "<s>the cat", " the", "", "the cat</s>"):
        assert ours.tok_encode(text) == harness.tok_encode(text)
        assert ours.tok_encode(text, left_truncate_len=2) == harness.tok_encode(text, left_truncate_len=2)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(LOSSLESS), context=WORDS, continuation=WORDS.filter(bool))
def test_no_text_of_a_pair_is_lost_or_free(kind: str, context: str, continuation: str) -> None:
    tokenizer, context = ALONE[kind], f"the {context}."
    if "</s>" in context + continuation or (kind.endswith("stripped") and not continuation.strip()):
        return
    before, after = TextEncoder(tokenizer).pair(context, continuation)
    assert after
    assert before == TextEncoder(tokenizer).prompt(context)
    assert tokenizer.decode(before + after) == tokenizer.decode(tokenizer.encode(context + continuation))


@pytest.mark.parametrize(
    ("kind", "context", "continuation"),
    [
        ("byte level", "the c", "at"),
        ("byte level", "hel", "lo there"),
        ("llama 2", "hello the", "re"),
        ("sentencepiece with a space before", "hel", "lo"),
        ("wordpiece", "the c", "at"),
        ("byte level after NFC", "caf e", "\u0301a"),
    ],
)
def test_where_a_token_spans_the_border_the_continuation_is_alone(kind: str, context: str, continuation: str) -> None:
    encoder = TextEncoder(ALONE[kind])
    before, whole = encoder.prompt(context), encoder.prompt(context + continuation)
    assert whole[: len(before)] != before or len(whole) == len(before)
    assert encoder.pair(context, continuation) == (before, encoder.completion(continuation, before).ids)


def test_an_unknown_token_that_spans_the_border_is_no_free_one() -> None:
    encoder = TextEncoder(ALONE["word level"])
    assert encoder.prompt("the dogs sat")[:2] == encoder.prompt("the do")
    before, after = encoder.pair("the do", "gs sat")
    assert ALONE["word level"].convert_ids_to_tokens(before + after) == ["the", "<unk>", "<unk>", "sat"]


@pytest.mark.parametrize("continuation", ["", "\ufeff"])
def test_a_continuation_without_tokens_is_refused_by_its_number(continuation: str) -> None:
    tokenizer = make("tiny")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\ufeff", "")
    fusion = FusedLM(make_model(tokenizer), tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"Pair 1 .*continuation"):
        fusion.score(["a", "a"], ["b", continuation])
    requests = [type("Request", (), {"args": ("", continuation)})]
    with pytest.raises(UserError, match=r"Pair 0 .*continuation"):
        FusedLMEval(fusion).loglikelihood(requests, disable_tqdm=True)


def test_the_command_names_the_line_of_a_pair_without_a_continuation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_model(make_model(ALONE["tiny"]), ALONE["tiny"], tmp_path / "model")
    rows = [{"context": "a", "continuation": text} for text in ("b", "", "c")]
    (tmp_path / "pairs.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    sentence = refuse(capsys, "score", "--large", tmp_path / "model", "--pairs", tmp_path / "pairs.jsonl")
    assert "pairs.jsonl, line 3, has an empty continuation" in sentence


def test_white_space_alone_is_scored_after_the_first_token() -> None:
    tokenizer = make("tiny", "begin")
    assert TextEncoder(tokenizer).pair("  ", "a") == ([1], tokenizer.encode("  a", add_special_tokens=False))


@pytest.mark.parametrize(
    ("text", "words"), [("a\ud800", "not Unicode"), (None, "of type NoneType"), (3, "of type int")]
)
def test_what_is_no_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TextEncoder(tiny_tokenizer()).prompt(text)


def test_half_a_character_is_refused_wherever_texts_are_encoded() -> None:
    encoder = TextEncoder(tiny_tokenizer())
    for encode in (lambda text: encoder.completion(text, [5]), lambda text: encoder.pair("a", text)):
        with pytest.raises(UserError, match="not Unicode"):
            encode("a\ud800")
