"""Downloads from the hub: what is fetched, that it is what the hub states, and a sentence for every fault."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fixture import ask_standin
from hub_standin import TOKEN, Hub, commit_of
from huggingface_hub import constants

from logitfusion.errors import UserError
from logitfusion.fetch import hub as client
from logitfusion.fetch.hub import download
from logitfusion.fetch.revisions import download_recorded, recorded_path, warn_if_moved

CONFIG = json.dumps({"model_type": "llama"})
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
NEEDED = {
    "config.json": CONFIG,
    "chat_template.jinja": "{{ messages }}",
    "model-1.safetensors": b"1" * 40_000,
    "model-2.safetensors": b"2" * 50_000,
    "model.safetensors.index.json": INDEX,
    "tokenizer.json": "{}",
}
BESIDE = {
    "README.md": "about",
    "consolidated.safetensors": b"3" * 9,
    "pytorch_model.bin": b"4",
    "original/params.json": "",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the model ``owner/name``, an empty cache, and no patience."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with ask_standin(monkeypatch, tmp_path) as hub:
        hub.add("owner/name", NEEDED | BESIDE)
        yield hub


def sentence(*arguments: str, id: str = "owner/name", revision: str = "main") -> str:
    with pytest.raises(UserError) as caught:
        download("model", id, revision)
    text = str(caught.value)
    assert text.startswith(f"The model {id!r} (revision {revision}")
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_only_what_a_model_needs_is_fetched_and_all_of_it(hub: Hub) -> None:
    found = download("model", "owner/name", "main")
    assert {file.name for file in found.files} == NEEDED.keys()
    for file in found.files:
        content = NEEDED[file.name]
        data = content.encode() if isinstance(content, str) else content
        assert file.path.read_bytes() == data
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert file.path == found.folder / file.name
    assert (found.commit, found.licence, found.moved_to) == (commit_of(1), "mit", None)
    assert not any(name in line for name in BESIDE for line in hub.asked)
    asked = len(hub.asked)
    assert download("model", "owner/name", found.commit).files == found.files
    assert not [line for line in hub.asked[asked:] if "/resolve/" in line], "all of it was in the cache"


@pytest.mark.parametrize("by", ["main", "commit"])
def test_what_was_fetched_is_there_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    found = download("model", "owner/name", "main")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = list(hub.asked)
    assert download("model", "owner/name", "main" if by == "main" else found.commit).files == found.files
    assert hub.asked == asked


def test_a_cache_that_is_not_whole_is_not_taken_for_the_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = download("model", "owner/name", "main")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (found.folder / "chat_template.jinja").unlink()
    assert "is not whole in the cache" in sentence()
    assert "without chat_template.jinja" in sentence()


def test_what_another_program_fetched_is_used_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no list of the files, but their digests as names."""
    found = download("model", "owner/name", "main")
    shutil.rmtree(found.folder.parents[1] / "trees")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download("model", "owner/name", "main").files == found.files
    weights = found.folder / "model-1.safetensors"
    weights.resolve().write_bytes(b"0" * 40_000)
    assert "another model-1.safetensors on this disk" in sentence()


def test_without_a_network_and_a_cache_both_are_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = sentence()
    assert constants.HF_HUB_CACHE in said
    assert "HF_HUB_OFFLINE is set" in said
    assert hub.asked == []


def test_a_hub_that_refuses_connections_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub http://127.0.0.1:9 does not answer" in sentence()


def test_a_gated_model_says_whose_terms_to_accept(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/gated", NEEDED, gated=True)
    page = f"accept the terms on its page, {hub.address}/owner/gated,"
    said = sentence(id="owner/gated")
    assert f"{page} and set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    said = sentence(id="owner/gated")
    assert "the account of HF_TOKEN has no access yet" in said
    assert page in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert download("model", "owner/gated", "main").size > 0


def test_what_is_not_there_is_told_apart(hub: Hub) -> None:
    assert "is not on the hub" in sentence(id="owner/nothing")
    assert "has no such revision" in sentence(revision="v9")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": CONFIG, "pytorch_model.bin": b"1"}, "has its weights in pytorch_model.bin, and only"),
        (
            {"config.json": CONFIG, "model.fp16.safetensors": b"1"},
            "has its weights in model.fp16.safetensors, and only",
        ),
        ({"config.json": CONFIG}, "has no weights"),
        ({"model.safetensors": b"1"}, "has no config.json"),
        (
            {"adapter_config.json": '{"base_model_name_or_path": "a/b"}', "adapter_model.safetensors": b"1"},
            "is an adapter, not a model; name the model that it belongs to (a/b)",
        ),
        ({name: data for name, data in NEEDED.items() if name != "model-2.safetensors"}, "is not whole"),
    ],
    ids=["pickle", "variant", "no weights", "no config", "adapter", "shard"],
)
def test_a_repository_that_is_no_model_says_what_it_is(hub: Hub, files: dict[str, bytes | str], words: str) -> None:
    hub.add("owner/other", files)
    assert words in sentence(id="owner/other")
    assert not [line for line in hub.asked if line.startswith("GET") and line.endswith((".safetensors", ".bin"))]


def test_a_renamed_model_is_fetched_and_its_new_name_told_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.add("old", {}, moved_to="owner/name")
    for _ in range(2):
        found = download("model", "old", "main")
        assert found.moved_to == "owner/name"
        assert {file.name for file in found.files} == NEEDED.keys()
    assert [message for message in caplog.messages if "is called" in message] == [
        "the model old is called owner/name on the hub now; write that name"
    ]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again_but_not_for_ever(hub: Hub, status: int) -> None:
    hub.repositories["models", "owner/name"].statuses += [status, status]
    assert download("model", "owner/name", "main").commit == commit_of(1)
    busy = hub.add("owner/busy", NEEDED, statuses=[status], lasting=True)
    before = len(hub.asked)
    said = sentence(id="owner/busy")
    assert ("too many requests" if status == 429 else "answers 503") in said
    assert len(hub.asked) - before == 1 + 1 + len(client.WAITS)  # the sign of life, and the tries
    assert busy.statuses == [status]


def test_the_hub_s_own_wish_is_how_long_is_waited(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    repository = hub.repositories["models", "owner/name"]
    repository.statuses, repository.headers = [429, 429, 429], {"Retry-After": "77"}
    download("model", "owner/name", "main")
    assert waited == [77, 77, 77]
    repository.statuses, repository.headers = [429], {"ratelimit": '"api";r=0;t=99999'}
    download("model", "owner/name", "main")
    assert waited[3:] == [client.LONGEST_WAIT]


def test_a_cut_file_is_gone_on_with(hub: Hub) -> None:
    hub.repositories["models", "owner/name"].cuts = 2
    assert {file.name for file in download("model", "owner/name", "main").files} == NEEDED.keys()
    hub.add("owner/cut", NEEDED, cuts=10**6)
    said = sentence(id="owner/cut")
    assert "could not be downloaded: the connection broke" in said
    assert "run the same again later" in said
    tries = [line for line in hub.asked if line.startswith("GET /owner/cut/") and "model-1.safetensors" in line]
    assert 0 < len(tries) < 30


def test_no_progress_ends_a_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.02)
    hub.add("owner/silent", NEEDED, silent=True)
    assert "nothing came for 0.02 s, several times" in sentence(id="owner/silent")


def test_other_bytes_than_the_hub_states_are_refused_and_forgotten(hub: Hub) -> None:
    repository = hub.repositories["models", "owner/name"]
    repository.lies = True
    assert "has another model-1.safetensors on this disk than on the hub" in sentence()
    repository.lies = False
    assert download("model", "owner/name", "main").commit == commit_of(1)


def test_a_disk_without_room_is_told_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000))
    assert "set HF_HOME to a folder of another disk" in sentence()
    assert not [line for line in hub.asked if line.startswith("GET") and line.endswith(".safetensors")]


def test_a_cache_that_can_not_be_written_names_hf_home(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"{tmp_path} can't be written; set HF_HOME" in sentence().replace("/cache", "")
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file/cache"))
    assert "not a directory; HF_HOME names another place" in sentence()


def test_a_server_that_is_no_hub_is_told(hub: Hub) -> None:
    hub.add("owner/page", NEEDED, statuses=[404], lasting=True)
    assert "as no model hub does; correct HF_ENDPOINT" in sentence(id="owner/page")


def test_a_branch_stays_the_commit_that_it_was(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    first = download_recorded("model", "owner/name", "main", tmp_path)
    repository = hub.repositories["models", "owner/name"]
    repository.commits[commit_of(99)] = repository.commits[first.commit] | {"config.json": b"{}"}
    repository.revisions["main"] = commit_of(99)
    caplog.clear()
    caplog.set_level(logging.WARNING)
    again = download_recorded("model", "owner/name", "main", tmp_path)
    assert again.files == first.files
    (warning,) = caplog.messages
    path = recorded_path(tmp_path, "model", "owner/name", "main")
    assert all(words in warning for words in (first.commit, commit_of(99), str(path), "revision"))
    path.unlink()
    assert download_recorded("model", "owner/name", "main", tmp_path).commit == commit_of(99)


def test_a_commit_needs_no_record(hub: Hub, tmp_path: Path) -> None:
    assert download_recorded("model", "owner/name", commit_of(1), tmp_path / "none").commit == commit_of(1)
    assert not (tmp_path / "none").exists()


def test_whether_a_branch_moved_is_not_asked_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    download_recorded("model", "owner/name", "main", tmp_path)
    hub.repositories["models", "owner/name"].revisions["main"] = commit_of(98)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    caplog.clear()
    warn_if_moved(recorded_path(tmp_path, "model", "owner/name", "main"))
    assert caplog.messages == []


def test_megabytes_are_lines_of_the_log(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hub.add("owner/large", {"config.json": CONFIG, "model.safetensors": bytes(3_000_000)})
    download("model", "owner/large", "main")
    assert any(message.startswith("owner/large: 3 of 3 MB, ") for message in caplog.messages)
