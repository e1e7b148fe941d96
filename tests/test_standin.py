"""The stand-in of the hub has what the papers' configs name, and its tokenizers are of the kinds that they say."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub_standin import TOKEN, Hub, Repository, serve
from small_papers import NAMES, names_of, read, shrink
from standin.contents import MAKERS
from standin.data_sets import DATA_SETS
from standin.models import MODELS
from standin.repository import Files, lay_out
from transformers import AutoConfig, AutoTokenizer

from logitfusion.clip.encoders.hub import clip_weights
from logitfusion.config.load import resolve_config

TEXTS = ("Tom has 5 apples.\nHe  buys 12 more: <<5+12=17>>", "naïve 你好 \t🙂")
ONE_OF_EACH = (
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-14B-Instruct",
    "microsoft/phi-4",
    "mistralai/Mistral-Small-24B-Instruct-2501",
)


def files_of(id: str) -> Files:
    (files,) = MAKERS["models", id]().commits.values()
    return files


@pytest.mark.parametrize("name", NAMES)
def test_what_a_paper_names_is_there(name: str) -> None:
    config = read(name)
    models = {("models", id) for id in names_of(config.get("models"), "id")}
    clip = config.get("clip", {}).get("encoder")
    models |= {("models", clip_weights(clip["model"], clip["pretrained"]).id)} if clip else set()
    texts = {("datasets", id) for id in names_of(config.get("tasks"), "dataset")}
    assert models
    assert models | texts <= MAKERS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_small_paper_is_the_same_but_for_its_sizes(name: str) -> None:
    large, small = resolve_config(read(name)), resolve_config(shrink(read(name)))
    assert large.models == small.models
    for track in ("fusion", "distill", "clip"):
        here, there = getattr(large, track), getattr(small, track)
        assert (here and here.methods.keys()) == (there and there.methods.keys())
    assert large.tasks.keys() == small.tasks.keys()
    assert large.experts.keys() == small.experts.keys()
    assert all(getattr(task, "test", None) in (2, None) for task in small.tasks.values())


@pytest.mark.parametrize("id", ONE_OF_EACH)
def test_a_tokenizer_gives_back_what_it_reads(id: str, tmp_path: Path) -> None:
    files = files_of(id)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(files[name])
    tokenizer, config = AutoTokenizer.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len(tokenizer) <= config.vocab_size
    assert config.model_type == MODELS[id].family.kind
    assert tokenizer.eos_token_id == config.eos_token_id
    assert (tokenizer("a").input_ids[0] == tokenizer.bos_token_id) == ("Llama" in id or "Mistral" in id)
    if "Llama" not in id:
        chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        assert all(turn["content"] in tokenizer.apply_chat_template(chat, tokenize=False) for turn in chat)


def test_a_large_models_weights_are_parted_and_others_lie_beside_them() -> None:
    files = files_of("meta-llama/Llama-2-13b-hf")
    assert sum(name.endswith(".safetensors") for name in files) > 1
    assert {"model.safetensors.index.json", "pytorch_model.bin.index.json"} <= files.keys()


def test_rows_depend_on_nothing_but_the_code() -> None:
    id = "openai/gsm8k"
    assert lay_out(DATA_SETS[id]()) == lay_out(DATA_SETS[id]())


def test_a_repository_is_made_when_it_is_asked_for_and_has_every_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    made = []

    def make() -> Repository:
        made.append(1)
        return Repository({"0" * 40: {"a.txt": b"0123456789"}}, {"main": "0" * 40}, any_commit=True, gated=True)

    with serve({("models", "owner/name"): make}) as hub:
        assert get(hub, "/owner/other/resolve/main/a.txt") == 401
        assert not made
        assert get(hub, f"/owner/name/resolve/{'c' * 40}/a.txt") == b"0123456789"
        assert get(hub, "/owner/name/resolve/main/a.txt", Range="bytes=2-4") == b"234"
        assert get(hub, "/owner/name/resolve/v1.0/a.txt") == 404
        assert get(hub, "/owner/name/resolve/main/a.txt", Authorization="Bearer other") == 403
        assert made == [1]


def get(hub: Hub, path: str, **headers: str) -> bytes | int:
    """A body, or the status of a refusal."""
    request = urllib.request.Request(hub.address + path, headers={"Authorization": f"Bearer {TOKEN}"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.code
