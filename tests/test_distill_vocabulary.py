"""Which tokens of two tokenizers stand for the same bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from logitfusion.distill.encoding import encode_text, spell_tokens
from logitfusion.distill.shared import SharedTokens
from logitfusion.distill.vocabulary import Vocabulary, share_tokens
from logitfusion.models.tiny import tiny_tokenizer

BYTES, PAIRS = tiny_tokenizer(), tiny_tokenizer(pairs=True)
FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's: spaces are U+2581, bytes stand in for characters that are no token."""
    tokens = ["<unk>", "<end>", *FALLBACK, "\u2581", "a", "b", "\u2581a", "ab", "\u00e9", "\u2581the"]
    merges = [("\u2581", "a"), ("a", "b")]
    made = Tokenizer(
        models.BPE(
            vocab={name: n for n, name in enumerate(tokens)}, merges=merges, byte_fallback=True, unk_token="<unk>"
        )
    )
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return fast(made)


def wordpiece() -> PreTrainedTokenizerFast:
    tokens = ["<unk>", "<end>", "a", "b", "##b", "the", "of"]
    made = Tokenizer(models.WordPiece(vocab={name: n for n, name in enumerate(tokens)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast(made)


def of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    return Vocabulary.of(tokenizer, len(tokenizer))


def names(shared: SharedTokens, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> dict[str, str]:
    pairs = zip(shared.teacher.tolist(), shared.student.tolist(), strict=True)
    return {teacher.convert_ids_to_tokens(there): student.convert_ids_to_tokens(here) for there, here in pairs}


def test_vocabularies_of_one_spelling_share_what_golds_strings_do() -> None:
    ours, theirs = BYTES.get_vocab(), PAIRS.get_vocab()
    found = names(share_tokens(of(BYTES), of(PAIRS)), BYTES, PAIRS)
    assert found == {token: token for token in ours.keys() & theirs.keys()}
    assert len(found) == 259


def test_spellings_are_read_as_bytes() -> None:
    """GOLD's comparison of strings would find the letters alone."""
    teacher = sentencepiece()
    found = names(share_tokens(of(PAIRS), of(teacher)), PAIRS, teacher)
    assert found["\u2581"] == "\u0120"
    assert found["ab"] == "ab"
    assert found["<0xC3>"] == "\u00c3"
    assert "\u2581the" not in found
    assert "<0x61>" not in found  # "a" is a token of its own


def test_pieces_of_words_are_read_with_the_space_before_words() -> None:
    teacher = wordpiece()
    spelled = {number: name for name, number in spell_tokens(teacher).items()}
    assert [spelled[n] for n in range(2, 7)] == [b" a", b" b", b"b", b" the", b" of"]
    assert names(share_tokens(of(sentencepiece()), of(teacher)), sentencepiece(), teacher) == {
        "<unk>": "<unk>", "<end>": "<end>", "a": "\u2581a", "##b": "b", "the": "\u2581the",
    }  # fmt: skip


def test_what_closes_a_response_is_shared_whatever_its_text() -> None:
    teacher = sentencepiece()
    assert names(share_tokens(of(BYTES), of(teacher)), BYTES, teacher)["<end>"] == "</s>"
    bare = replace(of(BYTES), closing=None)
    assert "<end>" not in names(share_tokens(bare, of(teacher)), BYTES, teacher)


def test_closings_come_before_equal_texts() -> None:
    """A student that closes with another token than its teacher, which it has as well, must not be pulled to that."""
    ours, theirs = of(PAIRS), replace(of(BYTES), closing=1)
    found = names(share_tokens(ours, theirs), PAIRS, BYTES)
    assert found["<s>"] == "</s>"
    assert "</s>" not in found
    assert "<s>" not in found.values()


def test_responses_are_closed_as_most_texts_are() -> None:
    texts = [encode_text(PAIRS, "What?", " that", template=template) for template in ("chat", "plain")]
    assert Vocabulary.of(PAIRS, 1555, texts).closing == PAIRS.eos_token_id
    closed = [replace(text, ids=(*text.ids[:-1], PAIRS.bos_token_id)) for text in texts]
    cut = [replace(text, ids=text.ids[:-1], ends=text.ends[:-1]) for text in texts]
    assert Vocabulary.of(PAIRS, 1555, [*closed, *cut, *cut]).closing == PAIRS.bos_token_id


@pytest.mark.parametrize("sizes", [(100, 259), (259, 100)])
def test_tokens_without_a_logit_are_not_shared(sizes: tuple[int, int]) -> None:
    ours, theirs = (replace(of(BYTES), size=size) for size in sizes)
    found = share_tokens(ours, theirs)
    assert len(found.places) == sizes[1]
    assert found.student.tolist() == found.teacher.tolist() == list(range(100))


def test_padding_of_the_logits_is_part_of_the_vocabulary() -> None:
    """As in GOLD, whose weight of the shared tokens is their number by the width of the teacher's logits."""
    assert share_tokens(of(BYTES), replace(of(BYTES), size=518)).share == 0.5
