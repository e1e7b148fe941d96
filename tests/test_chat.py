"""Chats: the ids are those of the tokenizer's own template, and what it can't write is one sentence."""

from __future__ import annotations

import json
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import refuse, run
from lm_eval.models.huggingface import HFLM
from small_tokenizers import CHATML, framed
from test_text import make_model
from transformers import PreTrainedTokenizerBase

from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import encode_text
from logitfusion.errors import UserError
from logitfusion.files import read_jsonl, write_jsonl
from logitfusion.fusion import FusedLM
from logitfusion.fusion.lm_eval import FusedLMEval
from logitfusion.models import chat
from logitfusion.models.chat import ChatTemplate
from logitfusion.models.load import save_model
from logitfusion.models.tiny import tiny_tokenizer

TURNS = "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
PROMPTED = (
    "{% if add_generation_prompt %}<start>model\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TEMPLATES = {
    "with begin": "{{ bos_token }}" + TURNS + PROMPTED,
    "without begin": TURNS + PROMPTED,
    "chatml": CHATML,
    "no system": "{{ bos_token }}" + NO_SYSTEM + TURNS + PROMPTED,
    "drops system": TURNS.replace("%}<", "if m['role'] != 'system' %}<") + PROMPTED,
}
SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey."}, {"role": "user", "content": "A?"}],
    [SYSTEM, {"role": "user", "content": "Hi</s>"}],
]
CONTINUED = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1, 2,"}]


def make_tokenizer(template: str | dict[str, str] | None, *, begins: bool = True) -> PreTrainedTokenizerBase:
    tokenizer = framed(tiny_tokenizer(), ["<s>"] if begins else [], [])
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose template knows ``enable_thinking``."""
    return save(tmp_path / "model", TEMPLATES["with begin"])


def save(folder: Path, template: str | dict[str, str]) -> Path:
    tokenizer = make_tokenizer(template)
    save_model(make_model(tokenizer), tokenizer, folder)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts of which continuations are asked for."""
    told: list[list[int]] = []
    generate = FusedLM.generate
    monkeypatch.setattr(
        FusedLM, "generate", lambda self, prompts, *a, **k: (told.extend(prompts), generate(self, prompts, *a, **k))[1]
    )
    return told


def expect(template: str, messages: list[dict[str, str]], **arguments: Any) -> list[int]:
    options = {"add_generation_prompt": True, **arguments}
    return make_tokenizer(template).apply_chat_template(messages, tokenize=True, return_dict=False, **options)


# Generation

SHORT = ("--max-new-tokens", 2)


@pytest.mark.parametrize("name", ["with begin", "without begin", "chatml"])
def test_chats_are_those_of_the_template(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: list[list[int]], name: str
) -> None:
    folder, template = save(tmp_path / "model", TEMPLATES[name]), TEMPLATES[name]
    write_jsonl(tmp_path / "chats.jsonl", [*({"messages": chat} for chat in CHATS), {"prompt": "Hi"}])
    output = tmp_path / "said.jsonl"
    run(
        capsys,
        "generate",
        "--large",
        folder,
        "--chat",
        "--prompts",
        tmp_path / "chats.jsonl",
        *SHORT,
        "--output",
        output,
    )
    assert asked == [expect(template, chat) for chat in (*CHATS, CHATS[0])]
    assert [ids.count(1) for ids in asked] == [int(name == "with begin")] * 4
    assert [row.get("messages") for row in read_jsonl(output)] == [*CHATS, None]
    assert read_jsonl(output)[3]["prompt"] == "Hi"


def test_a_system_message_and_arguments_are_given_to_the_template(
    capsys: pytest.CaptureFixture[str], folder: Path, asked: list[list[int]]
) -> None:
    options = ["--system", "Be brief.", "--chat-arguments", '{"enable_thinking": false}']
    run(capsys, "generate", "--large", folder, "--chat", "--prompt", "Hi", *options, *SHORT)
    assert asked == [expect(TEMPLATES["with begin"], [SYSTEM, *CHATS[0]], enable_thinking=False)]
    assert asked != [expect(TEMPLATES["with begin"], [SYSTEM, *CHATS[0]])]


def test_the_last_message_of_an_assistant_is_gone_on_with(
    capsys: pytest.CaptureFixture[str], folder: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": CONTINUED}])
    run(capsys, "generate", "--large", folder, "--chat", "--prompts", tmp_path / "chats.jsonl", *SHORT)
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert asked == [expect(TEMPLATES["with begin"], CONTINUED, **options)]
    assert tiny_tokenizer().decode(asked[0]).endswith("1, 2,")


def test_one_of_several_templates_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: list[list[int]]
) -> None:
    folder = save(tmp_path / "model", {"default": TEMPLATES["with begin"], "chatml": CHATML})
    for options in ([], ["--chat-template", "chatml"]):
        run(capsys, "generate", "--large", folder, "--chat", "--prompt", "Hi", *options, *SHORT)
    assert asked == [expect(TEMPLATES["with begin"], CHATS[0]), expect(CHATML, CHATS[0])]
    sentence = refuse(capsys, "generate", "--large", folder, "--chat", "--prompt", "Hi", "--chat-template", "rag")
    assert "no chat template named 'rag'; it has chatml, default" in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chat", "--chat-arguments", '{"enable_thinkin": false}'], "'enable_thinkin': did you mean enable_thinking"),
        (["--chat", "--chat-arguments", '{"tokenize": false}'], "tokenize can't be set"),
        (["--chat", "--chat-arguments", "[1]"], "--chat-arguments needs a JSON object"),
        (["--chat", "--chat-arguments", "{"], "--chat-arguments is not JSON"),
        (["--chat", "--chat-template", "rag"], "none named 'rag'"),
        (["--system", "Be brief."], "--system needs --chat"),
        (["--chat-arguments", "{}"], "--chat-arguments needs --chat"),
        (["--chat-template", "rag"], "--chat-template needs --chat"),
    ],
)
def test_options_that_can_not_work_are_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, options: list[str], words: str
) -> None:
    assert words in refuse(capsys, "generate", "--large", folder, "--prompt", "Hi", *options)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "needs a list of messages"),
        ({"messages": "Hi"}, "needs a list of messages"),
        ({"messages": ["Hi"]}, 'message 1, needs a text under "role"'),
        ({"messages": [{"role": "user"}]}, 'message 1, needs a text under "content"'),
        ({"messages": [{"role": "user", "content": None}]}, 'message 1, needs a text under "content"'),
        ({"messages": [{"role": "user", "content": "a", "nam": "b"}]}, "no field 'nam'"),
        ({"messages": CHATS[0], "prompt": "Hi"}, "both a prompt and messages"),
        ({"messages": CHATS[2]}, "system's message of its own"),
        ({"text": "Hi"}, 'needs a text under "prompt"'),
        (["Hi"], 'needs a text under "prompt"'),
    ],
)
def test_bad_messages_are_refused_by_their_line(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, row: Any, words: str
) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"prompt": "Hi"}) + "\n\n" + json.dumps(row) + "\n")
    sentence = refuse(capsys, "generate", "--large", folder, "--chat", "--system", "Brief.", "--prompts", file)
    assert "chats.jsonl, line 3," in sentence
    assert words in sentence


def test_messages_without_chat_are_refused(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": CHATS[0]}])
    options = ["--prompts", tmp_path / "chats.jsonl"]
    assert "line 1, has messages; add --chat" in refuse(capsys, "generate", "--large", folder, *options)


def test_a_template_without_a_system_role_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, words in (("no system", "System role not supported"), ("drops system", "no place for a system message")):
        folder = save(tmp_path / name, TEMPLATES[name])
        sentence = refuse(capsys, "generate", "--large", folder, "--chat", "--system", "Brief.", "--prompt", "Hi")
        assert "Prompt 0 can't be a chat" in sentence
        assert words in sentence


def test_a_template_that_is_missing_or_unnamed_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no chat template; leave --chat out"):
        ChatTemplate(make_tokenizer(None), otherwise="leave --chat out")
    with pytest.raises(UserError, match=r"no chat template named 'default'; it has rag, tool_use"):
        ChatTemplate(make_tokenizer({"rag": CHATML, "tool_use": CHATML}))
    tools = {"tools": [{"type": "function", "function": {"name": "add"}}]}
    knowing = CHATML + "{{ tools }}"
    assert ChatTemplate(make_tokenizer({"default": TURNS, "tool_use": knowing}), arguments=tools).text == knowing


@pytest.mark.parametrize("name", ["tools", "documents"])
def test_a_template_that_ignores_tools_or_documents_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=f"no argument '{name}'"):
        ChatTemplate(make_tokenizer(CHATML), arguments={name: [{"title": "a", "text": "b"}]})


@pytest.mark.parametrize("fault", ["1 // 0", "messages.clear()", "messages[9].content", "[].index(1)", "'a' + 1"])
def test_a_template_may_fail_in_any_way(fault: str) -> None:
    with pytest.raises(UserError, match="refuses the messages"):
        ChatTemplate(make_tokenizer(f"{TURNS}{{{{ {fault} }}}}")).encode(CHATS[0])


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
TREE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}"


@pytest.mark.parametrize("template", [LOOP + "{% endfor %}", TREE])
def test_a_template_without_an_end_is_ended(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    with pytest.raises(UserError, match=r"computes for more than 0\.2 seconds"):
        ChatTemplate(make_tokenizer(template)).encode(CHATS[0])
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0), "nothing is ended later"
    assert ChatTemplate(make_tokenizer(CHATML)).encode(CHATS[0])


def test_a_template_is_rendered_in_any_thread() -> None:
    template = ChatTemplate(make_tokenizer(CHATML))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(template.render, CHATS[0]).result() == template.render(CHATS[0])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses the messages (maximum recursion"),
        ("{{ raise_exception('Roles\nmust alternate.') }}", "refuses the messages (Roles must alternate.)"),
        ("{{ 'a' * 10 ** 13 }}", "refuses the messages (MemoryError)"),
        ("{% for %}", "refuses the messages (Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_does_wrong_is_one_sentence(template: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        ChatTemplate(make_tokenizer(template)).encode(CHATS[0])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_writes_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LARGEST", 1000)
    assert ChatTemplate(make_tokenizer("{{ 'a' * 1000 }}")).encode(CHATS[0])
    with pytest.raises(UserError, match="writes more than 1,000 characters"):
        ChatTemplate(make_tokenizer("{{ 'a' * 1001 }}")).encode(CHATS[0])


@pytest.mark.parametrize("template", [3, True, [1], {"default": None}, {"default": CHATML, "other": 3}])
def test_a_template_that_is_no_text_is_one_sentence(template: Any) -> None:
    with pytest.raises(UserError, match="a chat template that is no text"):
        ChatTemplate(make_tokenizer(template))


def test_fields_that_are_null_are_not_there() -> None:
    template = ChatTemplate(make_tokenizer(CHATML))
    assert template.encode([CHATS[0][0] | {"tool_calls": None, "refusal": None}]) == expect(CHATML, CHATS[0])


def test_half_a_character_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"not Unicode, '\\ud83d'"):
        ChatTemplate(make_tokenizer(CHATML)).encode([{"role": "user", "content": "Hi \ud83d"}])


# Files of prompts


def test_a_byte_order_mark_is_no_part_of_a_file(
    capsys: pytest.CaptureFixture[str], folder: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    for text in ('{"prompt": "Hi"}', "Hi"):
        (tmp_path / "prompts").write_bytes(f"\ufeff{text}\n".encode())
        run(capsys, "generate", "--large", folder, "--prompts", tmp_path / "prompts", *SHORT)
    assert asked == ["Hi", "Hi"]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chat", [[], ["--chat"]])
def test_a_list_of_objects_is_no_list_of_prompts(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, indent: int | None, chat: list[str]
) -> None:
    (tmp_path / "prompts").write_text(json.dumps(CHATS[0], indent=indent))
    sentence = refuse(capsys, "generate", "--large", folder, "--prompts", tmp_path / "prompts", *chat)
    assert "is one JSON list; write its objects one a line" in sentence


# The harness


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {}) for name in TEMPLATES),
        *((name, {"enable_thinking": False}) for name in TEMPLATES if name != "chatml"),
    ],
)
def test_the_harness_model_writes_and_reads_chats_as_hf_does(
    caplog: pytest.LogCaptureFixture, name: str, arguments: dict[str, Any]
) -> None:
    tokenizer = make_tokenizer(TEMPLATES[name])
    model = make_model(tokenizer)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, chat_template_args=arguments)
    ours = FusedLMEval(FusedLM(model, tokenizer=tokenizer), chat_template_args=arguments)
    with caplog.at_level(logging.WARNING, logger="logitfusion"):
        for chat in (*CHATS, CHATS[2]):
            text = ours.apply_chat_template(chat)
            assert text == theirs.apply_chat_template(chat)
            assert ours.tok_encode(text) == theirs.tok_encode(text)
    assert ours.apply_chat_template(CONTINUED, False) == theirs.apply_chat_template(CONTINUED, False)
    assert ours.chat_template(True) == theirs.chat_template(True)
    left_out = [row for row in caplog.records if "system message is left out" in row.getMessage()]
    assert len(left_out) == (name in ("no system", "drops system"))
    begun = [row for row in caplog.records if "does not write the token that begins its texts" in row.getMessage()]
    assert len(begun) == (name not in ("with begin", "no system")), "here as with hf, and not in a training"


def test_the_harness_model_uses_the_template_that_is_named() -> None:
    tokenizer = make_tokenizer({"default": TEMPLATES["with begin"], "chatml": CHATML})
    fusion = FusedLM(make_model(tokenizer), tokenizer=tokenizer)
    named, chosen = FusedLMEval(fusion, chat_template_name="chatml"), FusedLMEval(fusion)
    assert chosen.chat_template("chatml") == CHATML
    for model in (named, chosen):
        assert model.apply_chat_template(CHATS[0]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(UserError, match="no chat template named"):
        FusedLMEval(fusion).chat_template("rag")
    with pytest.raises(UserError, match="did you mean enable_thinking"):
        FusedLMEval(fusion, chat_template_args={"enable_thinkin": True}).apply_chat_template(CHATS[0])


def test_a_template_that_writes_the_date_says_so(caplog: pytest.LogCaptureFixture) -> None:
    dated = "{{ strftime_now('%Y') }}" + TEMPLATES["chatml"]
    for template, words in ((dated, "may write today's date"), (TEMPLATES["chatml"], "")):
        caplog.clear()
        assert ChatTemplate(make_tokenizer(template)).render(CHATS[0]).endswith("assistant\n")
        assert words in caplog.text
        assert bool(words) == bool(caplog.text)


# Teachers


def test_a_teacher_reads_the_chat_of_the_arguments(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"prompt": "Hi", "response": "Hey"}])
    command = ["distill-cache", "--teacher", folder, "--texts", tmp_path / "texts.jsonl", "--k", 3]
    given = ["--chat-arguments", '{"enable_thinking": false}']
    run(capsys, *command, "--output", tmp_path / "cache", "--template", "chat", *given)
    settings = TeacherCache(find_shards(tmp_path / "cache")).settings
    assert settings["template"] == 'chat {"enable_thinking": false}'
    assert "template is" in refuse(capsys, *command, "--output", tmp_path / "cache", "--template", "chat")
    assert "--template chat" in refuse(capsys, *command, "--output", tmp_path / "other", *given)
    tokenizer = make_tokenizer(TEMPLATES["with begin"])
    encoded = encode_text(tokenizer, "Hi", "Hey", template="chat", arguments={"enable_thinking": False})
    assert list(encoded.ids[: encoded.start]) == expect(TEMPLATES["with begin"], CHATS[0], enable_thinking=False)
