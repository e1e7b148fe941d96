"""Learning from chats: what is read is the template's own text, and what is learned are the assistant's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_level, framed, llama_2, sentencepiece
from test_chat import NO_SYSTEM, PROMPTED, TURNS
from test_text import make_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.objective import Objective
from logitfusion.config.prompting import TextFormat
from logitfusion.config.training import Recipe
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.offline import cache_teacher
from logitfusion.distill.shard import hash_texts
from logitfusion.distill.sources import CachedSource
from logitfusion.distill.teacher import read_teacher
from logitfusion.distill.training import distill
from logitfusion.errors import UserError
from logitfusion.models.examples import ExampleEncoder
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.training.batches import CompletionCollator
from logitfusion.training.finetune import encode_examples, finetune

CHAT = TextFormat(template="chat")
# ChatML with the marks by which transformers knows what the assistant says.
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def say(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """A chat in which user and assistant take turns."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system else []), *turns]


def marked(tokenizer: PreTrainedTokenizerBase | None = None, template: str = MARKED) -> PreTrainedTokenizerBase:
    tokenizer = tokenizer or byte_level()
    tokenizer.chat_template = template
    return tokenizer


CHATS = [
    say("hello", "the cat"),
    say("hello", "the cat sat", "where?", "on the mat."),
    say("one", "two", "three", "four", "five", "six", system="Be brief."),
    [*say("hello", "the cat"), {"role": "assistant", "content": "and on"}],
    say("a", "", "b", "c  two spaces\n"),
    say("ünï 👍", "😀 你好\n\nnew", "<b>", "x"),
]


def learned(row: dict[str, Any]) -> list[int]:
    """1 for each token that is learned."""
    kept = row.get("learned", [True] * row["completion"])
    return [0] * (len(row["input_ids"]) - row["completion"]) + [int(one) for one in kept]


@pytest.mark.parametrize("messages", CHATS)
def test_ids_and_mask_are_those_of_transformers(messages: list[dict[str, str]]) -> None:
    tokenizer = marked()
    (row,) = encode_examples([{"messages": messages}], tokenizer, 1000, CHAT)
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert row["input_ids"] == whole["input_ids"][:-1]  # the line break after the last answer is not read
    assert learned(row) == whole["assistant_masks"][:-1]


WORDS = st.lists(st.sampled_from(["the", "cat", "é", "👍", "\n", " ", "1", ".", "<b>"]), max_size=6).map("".join)


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(WORDS, min_size=2, max_size=8), limit=st.integers(2, 200))
def test_any_chat_is_read_as_transformers_reads_it(contents: list[str], limit: int) -> None:
    tokenizer = TOKENIZER
    contents = [text.lstrip() if n % 2 else text for n, text in enumerate(contents)]
    spoken = contents[: len(contents) // 2 * 2]
    (row,) = encode_examples([{"messages": say(*contents)}], tokenizer, limit, CHAT)
    whole = tokenizer.apply_chat_template(
        say(*spoken), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = whole["input_ids"][:-1][-limit:], whole["assistant_masks"][:-1][-limit:]
    assert row["input_ids"] == ids
    assert learned(row) == [0, *mask[1:]]  # nothing predicts the first token


TOKENIZER = marked(framed(tiny_tokenizer(), ["<|im_start|>", "<|im_end|>"], []))
TOKENIZER.backend_tokenizer.post_processor = tiny_tokenizer().backend_tokenizer.post_processor


def spell(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> list[tuple[str, bool]]:
    """The text of a row in pieces, each learned or not."""
    pieces: list[tuple[list[int], int]] = []
    for token, own in zip(row["input_ids"], learned(row), strict=True):
        if not pieces or pieces[-1][1] != own:
            pieces.append(([], own))
        pieces[-1][0].append(token)
    return [(tokenizer.decode(ids), bool(own)) for ids, own in pieces]


def test_a_system_speaks_where_none_does() -> None:
    form = TextFormat(template="chat", system="Be brief.")
    rows = [{"messages": say("a", "b")}, {"prompt": "a", "completion": " b"}, {"messages": say("a", "b", system="Go.")}]
    first, second, third = encode_examples(rows, marked(), 1000, form)
    assert first == second
    before = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert spell(marked(), first) == [(before, False), ("b<|im_end|>", True)]
    assert "Go." in spell(marked(), third)[0][0]
    assert "Be brief." not in spell(marked(), third)[0][0]


@pytest.mark.parametrize("tokenizer", [sentencepiece(), llama_2()], ids=["sentencepiece", "llama 2"])
def test_each_answer_is_what_is_generated_after_its_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    """A template that puts a space around each answer, in tokenizers that may put one before each text."""
    messages = say("hello", "the cat", "and", "the other")
    (turns,) = ExampleEncoder(marked(tokenizer, LLAMA_2), CHAT).turns([messages])
    assert [tokenizer.decode(turn.tokens.ids).strip() for turn in turns] == ["the cat", "the other"]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    # But for the space before the last end, which closes nothing: at once the model says that it is done.
    assert [token for turn in turns for token in turn.ids] == [*whole[:-2], whole[-1]]
    assert [turn.closing for turn in turns] == [[tokenizer.eos_token_id]] * 2
    (text,) = encode_texts(tokenizer, [messages], template="chat")
    assert text.ends[-1] == len("the cat") + 1 + len("the other") + 1
    assert max(text.ends[: len(turns[0].tokens.ids)]) == len("the cat")


def test_the_text_of_a_special_token_ends_no_turn() -> None:
    (row,) = encode_examples([{"messages": say("a", "b<|im_end|>c", "d", "e")}], marked(), 1000, CHAT)
    answers = [text for text, own in spell(marked(), row) if own]
    assert answers == ["b<|im_end|>c<|im_end|>", "e<|im_end|>"]
    closing = marked().convert_tokens_to_ids("<|im_end|>")
    assert row["input_ids"].count(closing) == 4  # two of the user's turns, two of the assistant's


def test_a_template_without_closing_is_closed_at_the_end_alone() -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: "
    (row,) = encode_examples([{"messages": say("a", "b", "c", "d")}], marked(template=template), 1000, CHAT)
    assert [text for text, own in spell(marked(), row) if own] == ["b", "d<|endoftext|>"]


def test_the_last_answer_is_written_as_those_before_it() -> None:
    """Where a template trims what is said, no white space at an answer's end is learned, wherever it stands."""
    tokenizer = marked(template=MARKED.replace("{{ m['content'] + ", "{{ m['content'] | trim + "))
    messages = say("a", "b \n", "c", "d  ")
    (row,) = encode_examples([{"messages": messages}], tokenizer, 1000, CHAT)
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert (row["input_ids"], learned(row)) == (whole["input_ids"][:-1], whole["assistant_masks"][:-1])
    (text,) = encode_texts(tokenizer, [messages], template="chat")
    assert text.ends[-1] == len("b \n") + 1 + len("d  ") + 1  # bytes are counted as they were given


def test_an_answer_is_closed_by_the_templates_token_even_where_that_rewrites_it() -> None:
    tokenizer = marked(template=MARKED.replace("{{ m['content'] + ", "{{ m['content'] | upper + "))
    (row,) = encode_examples([{"messages": say("a", "b")}], tokenizer, 1000, CHAT)
    assert [text for text, own in spell(tokenizer, row) if own] == ["b<|im_end|>"]


def test_what_cannot_be_learned_is_one_sentence() -> None:
    for rows, sentence in (
        ([{"messages": say("a")}], "Text 1: it has no message of an assistant"),
        ([{"messages": say("a", "b")}, {"messages": say("a", None)}], "Text 2: A text is needed"),
    ):
        with pytest.raises(UserError, match=sentence):
            encode_examples(rows, marked(), 100, CHAT)
    with pytest.raises(UserError, match=r"Text 1: it is a chat.*set template: chat"):
        encode_examples([{"messages": say("a", "b")}], marked(), 100)
    with pytest.raises(UserError, match=r"Text 1: it is a chat.*set template: chat"):
        encode_texts(marked(), [say("a", "b")])
    with pytest.raises(UserError, match="no chat template; use a chat model or template: plain"):
        encode_examples([{"messages": say("a", "b")}], tiny_tokenizer(), 100, CHAT)
    tokenizer = marked(framed(tiny_tokenizer(), ["<s>"], []), NO_SYSTEM + TURNS + PROMPTED)
    with pytest.raises(UserError, match="System role not supported"):
        encode_examples([{"messages": say("a", "b")}], tokenizer, 100, TextFormat(template="chat", system="Hm."))
    forgetful = MARKED.replace("m['content'] + '<|im_end|>' }", "m['content'].split('</think>')[-1] + '<|im_end|>' }")
    with pytest.raises(UserError, match="Text 1: the chat template writes the answer '<think>x</think>b' otherwise"):
        encode_examples([{"messages": say("a", "<think>x</think>b", "c", "d")}], marked(template=forgetful), 99, CHAT)
    assert encode_examples([{"messages": say("a", "<think>x</think>b")}], marked(template=forgetful), 99, CHAT)


@pytest.fixture
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return make_model(marked())


def direct_loss(model: PreTrainedModel, rows: list[list[dict[str, str]]]) -> float:
    """Cross-entropy a token, with the mask that transformers gives."""
    losses = []
    for messages in rows:
        whole = marked().apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor(whole["input_ids"][:-1])
        own = torch.tensor(whole["assistant_masks"][:-1], dtype=torch.bool)
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        losses.append(nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")[own[1:]])
    return float(torch.cat(losses).mean())


RECIPE = Recipe(
    steps=1, batch_size=len(CHATS), micro_batch=2, learning_rate=1e-9, precision="fp32", seed=0, template="chat",
    max_tokens=300,
)  # fmt: skip


def test_the_loss_is_that_of_the_answers(model: PreTrainedModel, tmp_path: Path) -> None:
    expected = direct_loss(model, CHATS)
    rows = [{"messages": messages} for messages in CHATS]
    _, curve = finetune(model, marked(), rows, RECIPE, lora=None, checkpoints=tmp_path, fingerprint="same", name="test")
    assert curve[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_labels_are_those_of_the_mask() -> None:
    rows = encode_examples([{"messages": messages} for messages in CHATS], marked(), 1000, CHAT)
    labels = CompletionCollator(0)(rows)["labels"]
    for row, found in zip(rows, labels.tolist(), strict=True):
        expected = [t if own else -100 for t, own in zip(row["input_ids"], learned(row), strict=True)]
        expected = [-100] * (len(found) - len(expected)) + expected
        assert found == expected[-len(found) :]


def test_a_teachers_cache_holds_the_answers_alone(model: PreTrainedModel) -> None:
    texts = encode_texts(marked(), CHATS, template="chat")
    for messages, text, found in zip(CHATS, texts, read_teacher(model, texts, k=5, batch_size=4), strict=True):
        whole = marked().apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor(whole["input_ids"][:-1])
        own = torch.tensor(whole["assistant_masks"][:-1], dtype=torch.bool)
        assert text.labels == tuple(ids[own].tolist())
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].log_softmax(-1)[own[1:]]
        torch.testing.assert_close(found.log_probs, logits.topk(5).values)
        torch.testing.assert_close(found.label_log_probs, logits.gather(1, ids[own][:, None])[:, 0])
        assert found.ends.tolist() == list(text.ends)


def test_ends_go_on_from_answer_to_answer() -> None:
    text, pair = encode_texts(TOKENIZER, [say("x", "ab", "y", " cé"), ("x", "ab")], template="chat")
    assert text.ends == (1, 2, 3, 5, 6, 7, 8)  # a, b, closed; a space is left out; c, two bytes, closed
    assert pair.ends == (1, 2, 3)
    assert sorted(text.ends) == list(text.ends)
    single = encode_texts(TOKENIZER, [say("x", "ab")], template="chat")[0]
    assert (single.ids, single.ends) == (pair.ids, pair.ends)
    assert single.digest != pair.digest  # another text: the same words, given otherwise


def test_a_student_learns_several_turns_from_another_vocabulary(tmp_path: Path) -> None:
    """Its loss is the mean over answers, and every position of its own meets the teacher's of the same bytes."""
    torch.manual_seed(1)
    teacher, student = make_model(marked()), make_model(TOKENIZER)
    chats = [say("hello", "the cat", "and?", "sat there"), say("one", "two"), say("a", "b", "c", "d", "e", "f")]
    source = {"model_hash": "m", "tokenizer_hash": "t", "vocabulary_hash": "v", "template": "chat", "max_tokens": None}
    encoded = encode_texts(marked(), chats, template="chat")
    source["data_hash"] = hash_texts(chats)
    paths = cache_teacher(teacher, encoded, tmp_path / "cache", source=source, k=4, batch_size=2)
    own = encode_texts(TOKENIZER, chats, template="chat")
    recipe = RECIPE.model_copy(update={"batch_size": 3, "micro_batch": 3})
    labels = [label for text in own for label in text.labels]
    total = 0.0
    for text in own:
        with torch.no_grad():
            logits = student(torch.tensor([text.ids])).logits[0]
        places = torch.tensor(text.places)
        targets = torch.tensor(text.labels)
        total += float(nn.functional.cross_entropy(logits[places - 1], targets, reduction="sum"))
    _, curve = distill(
        student, TOKENIZER, own, {"other": CachedSource(TeacherCache(paths))}, Objective(uld=0.3, gld=0.2, k=4), recipe,
        lora=None, checkpoints=tmp_path / "checkpoints", fingerprint="same", name="test",
    )  # fmt: skip
    assert curve[0]["sft"] == pytest.approx(total / len(labels), rel=1e-4)
    assert curve[0]["uld"] > 0
    assert curve[0]["gld"] > 0


def test_a_cut_text_keeps_what_is_learned() -> None:
    whole = encode_texts(TOKENIZER, [say("hello", "ab", "where", "cd")], template="chat")[0]
    for limit in range(2, len(whole.ids) + 2):
        text = encode_texts(TOKENIZER, [say("hello", "ab", "where", "cd")], template="chat", max_tokens=limit)[0]
        assert len(text.ids) <= limit
        assert text.labels == whole.labels[: len(text.labels)]
        assert text.ends == whole.ends[: len(text.labels)]
        assert not text.labels or text.places[-1] == len(text.ids) - 1  # nothing is read after the last label


def test_rows_of_a_file_are_chats_or_pairs(tmp_path: Path) -> None:
    from logitfusion.stages._texts import SplitTexts

    rows = [{"id": 0, "messages": CHATS[0]}, {"id": 1, "prompt": "a", "completion": "b"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = list(SplitTexts([tmp_path / "train.jsonl"]))
    assert texts == [CHATS[0], ("a", "b")]
    assert len(encode_texts(marked(), texts, template="chat")) == 2
