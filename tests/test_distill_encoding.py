"""Texts in a model's tokens: the boundary, what closes them, and the bytes that each token covers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_level, sentencepiece, unigram, word_level, wordpiece
from tokenizers import normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from logitfusion.distill.alignment import align
from logitfusion.distill.encoding import encode_text
from logitfusion.errors import UserError
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.training.finetune import encode_examples

ASTRONAUT = "👩🏽\u200d🚀"

# Each keeps the bytes of the text, so that every token's end is known exactly.
EXACT = {
    "tiny": tiny_tokenizer(),
    "byte level": byte_level(),
    "byte level with a space before": byte_level(prefix_space=True),
    "sentencepiece": sentencepiece(),
    "sentencepiece with a space before": sentencepiece(prefix="always"),
    "sentencepiece with a space before unless there is one": sentencepiece(prefix="first"),
}
CHANGING = {
    "byte level after NFC": byte_level(normalizer=normalizers.NFC()),
    "byte level after NFC, offsets without spaces": byte_level(normalizer=normalizers.NFC(), trim_offsets=True),
    "wordpiece": wordpiece(),
    "unigram": unigram(),
    "word level": word_level(),
}
ALL = EXACT | CHANGING

TEXTS = [
    "",
    "hello world",
    " the cat sat.",
    "trailing  ",
    "\n\n\ttabs\n and  two  spaces\r\n",
    "   ",
    "你好\uff0c世界",
    "שלום hello עולם",
    f"a {ASTRONAUT}👍🏿 b",
    "e\u0301le\u0300ve Cafe\u0301",
    "ﬁne ① Ⅷ \uff21\uff22\uff23",
    "GRÖSSE Über",
    "a<|im_end|>b</s><s>c <|endoftext|>[SEP]",
    "<0x41> \u2581 \u0120 ##ab <unk>",
    "\x00\x01 𓀀 \ufeff\u200b",
]

PIECES = st.sampled_from(
    ["the", "cat", " ", "  ", "\n", "\t", "é", "e\u0301", "ﬁ", ASTRONAUT, "👍", "你好", "A", "ש", "."]
)
ANY_TEXT = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=20))


def with_tokenizer(tokenizers: dict[str, PreTrainedTokenizerBase]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tokenizer", tokenizers.values(), ids=tokenizers.keys())


def token_size(tokenizer: PreTrainedTokenizerBase, id: int) -> int:
    """How many bytes a token of a tokenizer that keeps bytes covers, from its vocabulary alone."""
    token = tokenizer.convert_ids_to_tokens(id)
    if "<0x00>" not in tokenizer.get_vocab():
        return len(token)  # byte-level tokens are written with one character a byte
    return 1 if re.fullmatch("<0x..>", token) else len(tokenizer.decode([id]).encode())


def check_exact(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Ends are those of the tokens' own sizes and of the tokenizer's decoder."""
    encoded = encode_text(tokenizer, "the", text)
    data = text.encode()
    labels = encoded.labels[:-1]
    sizes = [token_size(tokenizer, id) for id in labels]
    added = sum(sizes) - len(data)
    assert added in (0, 1)
    assert encoded.ends == (*(sum(sizes[: place + 1]) - added for place in range(len(labels))), len(data) + 1)
    for count, end in enumerate(encoded.ends[:-1], 1):
        if end == len(data) or data[end] & 0xC0 != 0x80:  # between characters
            assert tokenizer.decode(labels[:count])[added:] == data[:end].decode()


def check_invariants(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    encoded = encode_text(tokenizer, "the cat", text)
    size = len(text.encode())
    assert list(encoded.ids[: encoded.start]) == tokenizer.encode("the cat")
    assert encoded.labels[-1] == tokenizer.eos_token_id
    assert len(encoded.ends) == len(encoded.labels) == len(encoded.ids) - encoded.start
    assert encoded.ends[-1] == size + 1
    assert list(encoded.ends) == sorted(encoded.ends)
    assert encoded.ends[-2:-1] in ((size,), ())
    assert min(encoded.ends) >= 0


@pytest.mark.parametrize("text", TEXTS)
@with_tokenizer(EXACT)
def test_ends_are_exact(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    if "\u2581" in text and "<0x00>" in tokenizer.get_vocab():
        pytest.skip("the tokenizer reads U+2581 as a space: it doesn't keep these bytes")
    check_exact(tokenizer, text)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(list(EXACT)), text=ANY_TEXT)
def test_ends_are_exact_for_any_text(name: str, text: str) -> None:
    check_exact(EXACT[name], text.replace("\u2581", "_"))


@pytest.mark.parametrize("text", TEXTS)
@with_tokenizer(ALL)
def test_ends_tile_the_response(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    check_invariants(tokenizer, text)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(list(ALL)), text=ANY_TEXT)
def test_ends_tile_any_response(name: str, text: str) -> None:
    check_invariants(ALL[name], text)


def test_each_byte_token_has_its_own_end() -> None:
    assert encode_text(EXACT["tiny"], "", "é👍").ends == (1, 2, 3, 4, 5, 6, 7)


WORDS = st.lists(st.sampled_from(["the", "Cat", " ", "  ", "\n", "é", "👍", "你好", ".", ","]), max_size=12)


@settings(max_examples=80, deadline=None)
@given(text=WORDS.map("".join))
def test_words_end_where_they_end(text: str) -> None:
    # The tokenizer's own definition of a word; the whitespace after the last one is its.
    ends = [len(text[: word.end()].encode()) for word in re.finditer(r"\w+|[^\w\s]+", text)]
    size = len(text.encode())
    found = encode_text(CHANGING["word level"], "the", text).ends
    assert found == (*ends[:-1], *[size][: len(ends)], size + 1)


@pytest.mark.parametrize("text", ["The CAT sat", "hello,  World 1234\n", "there\tcafé NAÏVE Größe "])
def test_lower_cased_pieces_end_where_they_are_found(text: str) -> None:
    tokenizer = CHANGING["wordpiece"]
    encoded = encode_text(tokenizer, "the", text)
    place, expected = 0, []
    for token in tokenizer.convert_ids_to_tokens(encoded.labels[:-1]):
        piece = token.removeprefix("##")
        place = text.lower().index(piece, place) + len(piece)
        expected.append(len(text[:place].encode()))
    size = len(text.encode())
    assert encoded.ends == (*expected[:-1], size, size + 1)


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_a_composed_letter_ends_after_its_mark_and_the_rest_is_exact(trim_offsets: bool) -> None:
    tokenizer = byte_level(normalizer=normalizers.NFC(), trim_offsets=trim_offsets)
    ends = encode_text(tokenizer, "the", "e\u0301 \n o\u0301👍🏿").ends
    assert ends[0] == 3  # "é" of the corpus is one token
    assert {1, 2}.isdisjoint(ends)
    assert {4, 5} <= set(ends)  # space and new line, left out of trimmed offsets
    # "ó" composed is two tokens of other bytes, which end together; of the emoji, each token ends inside.
    assert 7 not in ends
    assert ends.count(9) == 2
    inside = [end for end in ends if end > 9]
    assert len(set(inside)) == len(inside) > 3


def test_the_sign_for_a_space_in_a_text_keeps_its_three_bytes() -> None:
    encoded = encode_text(EXACT["sentencepiece"], "the", "C\u2581C C")
    assert encoded.ends == (1, 4, 5, 6, 7, 8)


def test_a_space_put_before_the_text_takes_no_end_of_its_own() -> None:
    # The tokenizer maps its added space to the "G", and the unknown word all of "GRÖ".
    tokenizer = CHANGING["unigram"]
    encoded = encode_text(tokenizer, "", "GRÖ")
    assert tokenizer.convert_ids_to_tokens(encoded.labels) == ["\u2581", "<unk>", "</s>"]
    assert encoded.ends == (4, 4, 5)
    # Not where the text continues another.
    encoded = encode_text(tokenizer, "the", "GRÖ")
    assert tokenizer.convert_ids_to_tokens(encoded.labels) == ["<unk>", "</s>"]
    assert encoded.ends == (4, 5)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece", "byte level after NFC", "wordpiece"])
def test_special_tokens_in_a_response_are_text(name: str) -> None:
    tokenizer = ALL[name]
    marks = [token for token in tokenizer.all_special_tokens if token != tokenizer.unk_token]
    response = "a" + "b".join(marks) + "c"
    encoded = encode_text(tokenizer, "the", response)
    special = set(tokenizer.convert_tokens_to_ids(marks))
    assert special & set(tokenizer.encode(response, add_special_tokens=False)) == special
    assert special.isdisjoint(encoded.labels[:-1])
    assert len(encoded.ends) > 6
    assert special & set(tokenizer.encode(response)), "the tokenizer itself is unchanged"


def test_plain_is_what_fine_tuning_encodes() -> None:
    for tokenizer in ALL.values():
        example = {"prompt": "hello the", "completion": " cat sat."}
        expected = encode_examples([example], tokenizer, 1000)[0]
        encoded = encode_text(tokenizer, example["prompt"], example["completion"])
        assert list(encoded.ids) == expected["input_ids"]
        assert len(encoded.labels) == expected["completion"]


def test_something_stands_before_the_response_of_an_empty_prompt() -> None:
    for name, first in {"tiny": "<s>", "sentencepiece": "<s>", "byte level": "<|endoftext|>"}.items():
        encoded = encode_text(ALL[name], "", "hello")
        assert ALL[name].convert_ids_to_tokens(encoded.ids[: encoded.start]) == [first]


def test_chat_is_the_template_with_the_response() -> None:
    tokenizer = byte_level()
    encoded = encode_text(tokenizer, "hello <b>", "\n  the cat ", template="chat")
    turns = "<|im_start|>user\nhello <b><|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encoded.ids[: encoded.start]) == turns
    assert tokenizer.decode(encoded.labels) == "the cat <|im_end|>"
    assert encoded.labels[-1] != tokenizer.eos_token_id
    # Three stripped bytes belong to the first token.
    plain = encode_text(tokenizer, "", "the cat ").ends
    assert encoded.ends == tuple(3 + end for end in plain)


@pytest.mark.parametrize(
    ("closing", "token"),
    [
        ("<|im_end|>\n", "<|im_end|>"),
        ("\n<|im_end|><|endoftext|>", "<|im_end|>"),
        ("", "<|endoftext|>"),
        ("\n", "<|endoftext|>"),
        (" (end) <|im_end|>", "<|endoftext|>"),
    ],
)
def test_a_chat_response_is_closed_by_what_the_template_closes_it_with(closing: str, token: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\n' }}"
        f"{{% else %}}{{{{ 'A: ' + message['content'] + {closing!r} }}}}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
    )
    encoded = encode_text(tokenizer, "the answer?", "cat", template="chat")
    assert tokenizer.decode(encoded.ids) == f"Q: the answer?\nA: cat{token}"


def test_a_chat_template_adds_no_second_first_token() -> None:
    tokenizer = sentencepiece()
    tokenizer.chat_template = "{{ '<s>' }}{% for message in messages %}{{ message['content'] + '</s>' }}{% endfor %}"
    encoded = encode_text(tokenizer, "the", "cat", template="chat")
    assert encoded.ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", ["plain", "chat"])
@given(max_tokens=st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_a_long_text_loses_its_prompt_first(template: str, max_tokens: int) -> None:
    arguments = ALL["byte level"], "the cat sat there", "hello world hello"
    whole = encode_text(*arguments, template=template)
    cut = encode_text(*arguments, template=template, max_tokens=max_tokens)
    assert len(cut.ids) == min(max_tokens, len(whole.ids))
    assert cut.start >= 1
    prompt = whole.ids[: whole.start]
    assert prompt[len(prompt) - cut.start :] == cut.ids[: cut.start]
    assert cut.start == 1 or cut.labels == whole.labels
    assert (cut.labels, cut.ends) == (whole.labels[: len(cut.labels)], whole.ends[: len(cut.labels)])


def test_a_cut_never_parts_tokens_with_one_end() -> None:
    tokenizer = CHANGING["wordpiece"]
    whole = encode_text(tokenizer, "the", "a Ⅷ b")
    assert whole.ends == (1, 5, 5, 5, 5, 7, 8)
    kept = [len(encode_text(tokenizer, "the", "a Ⅷ b", max_tokens=limit).ends) for limit in range(2, 10)]
    assert kept == [1, 1, 1, 1, 5, 6, 7, 7]


@settings(max_examples=150, deadline=None)
@given(names=st.tuples(st.sampled_from(list(EXACT)), st.sampled_from(list(EXACT))), text=ANY_TEXT)
def test_groups_of_two_tokenizers_stand_for_the_same_bytes(names: tuple[str, str], text: str) -> None:
    text = text.replace("\u2581", "_")
    both = [encode_text(EXACT[name], "the", text) for name in names]
    groups = align(both[0].ends, both[1].ends)
    assert groups[-1].tolist() == [len(both[0].ends) - 1] * 2 + [len(both[1].ends) - 1] * 2
    for *student, first, last in groups[:-1].tolist():
        decoded = [
            EXACT[name].decode(encoded.labels[begin : end + 1])
            for name, encoded, (begin, end) in zip(names, both, (student, (first, last)), strict=True)
        ]
        if "\ufffd" not in decoded[0] + decoded[1]:
            assert decoded[0].lstrip() == decoded[1].lstrip()
    if names[0] == names[1] and len(set(both[0].ends)) == len(both[0].ends):
        assert groups.tolist() == [[place] * 4 for place in range(len(both[0].ends))]


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"slow one.*tokenizer\.json"):
        encode_text(ByT5Tokenizer(), "the", "cat")
    with pytest.raises(UserError, match=r"no chat template.*template: plain"):
        encode_text(tiny_tokenizer(), "the", "cat", template="chat")
    endless = byte_level()
    endless.eos_token = None
    with pytest.raises(UserError, match="no end-of-text token"):
        encode_text(endless, "", "cat")
    with pytest.raises(ValueError, match="template is one of"):
        encode_text(tiny_tokenizer(), "the", "cat", template="alpaca")
    with pytest.raises(ValueError, match="max_tokens"):
        encode_text(tiny_tokenizer(), "the", "cat", max_tokens=1)
