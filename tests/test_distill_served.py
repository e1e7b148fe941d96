"""``logitfusion distill-cache --endpoint``: the cache is that of the model's folder, and bad answers are told."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from commands import refuse, run
from hypothesis import given, settings
from hypothesis import strategies as st
from rounded import spacing
from served_standin import NAME, Standin, serve
from transformers import PreTrainedModel

from logitfusion.config.endpoint import Endpoint, Protocol
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import EncodedText, digest_text, encode_texts
from logitfusion.distill.offline import SOURCE
from logitfusion.distill.served import Server, cache_served, describe
from logitfusion.distill.served.answers import Answers
from logitfusion.distill.served.protocols import Echo, Position
from logitfusion.distill.shard import TeacherText
from logitfusion.distill.teacher import read_teacher
from logitfusion.files import write_jsonl
from logitfusion.models.load import load_tokenizer
from logitfusion.models.tiny import tiny_tokenizer

ROWS = [
    {"prompt": "What is 2 + 2?", "response": " It is 4."},
    {"prompt": "Grüße", "response": " → ü"},
    {"prompt": "", "response": "a"},
    {"prompt": "nothing", "response": ""},
]
K = 7
TOKENIZER = tiny_tokenizer()


@pytest.fixture
def standin(loaded: dict[str, PreTrainedModel], tiny_models: dict[str, Path]) -> Iterator[Standin]:
    with serve(loaded["base"], load_tokenizer(tiny_models["base"])) as server:
        yield server


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """The teacher's config and tokenizer, without weights."""
    names = shutil.ignore_patterns("*.safetensors", "record.json")
    shutil.copytree(tiny_models["base"], tmp_path / "teacher", ignore=names)
    return tmp_path / "teacher"


@pytest.fixture
def asked(folder: Path, standin: Standin, tmp_path: Path) -> list[object]:
    write_jsonl(tmp_path / "texts.jsonl", ROWS)
    texts = ["--teacher", folder, "--texts", tmp_path / "texts.jsonl", "--k", K, "--output", tmp_path / "served"]
    return ["distill-cache", *texts, "--endpoint", standin.address]


@pytest.fixture
def of_folder(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], asked: list[object], tmp_path: Path
) -> TeacherCache:
    """The cache of the same texts, read here."""
    files = ["--texts", tmp_path / "texts.jsonl", "--output", tmp_path / "read", "--dtype", "fp32"]
    run(capsys, "distill-cache", "--teacher", tiny_models["base"], "--k", K, *files)
    return TeacherCache(find_shards(tmp_path / "read"))


def assert_same(found: TeacherText, expected: TeacherText) -> None:
    assert found.digest == expected.digest
    assert torch.equal(found.ends, expected.ends)
    assert torch.equal(found.ids.sort().values, expected.ids.sort().values)
    step = max(map(spacing, expected.log_probs.tolist()))  # each side is rounded for itself
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=2**-11, atol=2.4 * step)
    torch.testing.assert_close(found.label_log_probs, expected.label_log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.tail, expected.tail, rtol=0, atol=1e-6)


@pytest.mark.parametrize("protocol", ["vllm", "sglang", "echo"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_cache_is_that_of_the_folder(
    capsys: pytest.CaptureFixture[str],
    standin: Standin,
    asked: list[object],
    of_folder: TeacherCache,
    tmp_path: Path,
    protocol: str,
    concurrency: int,
) -> None:
    standin.token_ids = True
    run(capsys, *asked, "--protocol", protocol, "--concurrency", concurrency, "--shards", 2)
    served = TeacherCache(
        find_shards(tmp_path / "served"),
        {
            **of_folder.settings,
            "shards": 2,
            "model_hash": f"served as {NAME} (/models/teacher) by vllm 0.11.0",
            "dtype": "served",
        },
    )
    for found, expected in zip(served, of_folder, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("protocol", ["vllm", "sglang", "echo"])
def test_only_what_the_assistant_says_is_asked_for(
    standin: Standin, folder: Path, tmp_path: Path, protocol: Protocol
) -> None:
    """A chat of two turns, the second of which ends with the last token of the vocabulary."""
    standin.token_ids = True
    chat = EncodedText((5, 6, 7, 8, 9, 10, 11, 258), 2, (1, 2, 3, 4), b"01234567", between=(4, 5))
    server, tokenizer = Server(Endpoint(endpoint=standin.address, protocol=protocol)), load_tokenizer(folder)
    source = dict.fromkeys(SOURCE[1:-1], "x") | {"max_tokens": None}
    options = {"source": source, "k": 259}
    paths = cache_served(server, describe(server), tokenizer, 259, [chat], tmp_path / "served", **options)
    (expected,) = read_teacher(standin.model, [chat], k=259, batch_size=1)
    (found,) = TeacherCache(paths)
    assert len(found) == 4
    assert_same(found, expected)


def test_the_manifest_says_what_served_it(
    capsys: pytest.CaptureFixture[str], standin: Standin, asked: list[object], tmp_path: Path
) -> None:
    run(capsys, *asked)
    printed = run(capsys, "distill-cache", "--verify", tmp_path / "served")
    assert f"model_hash: served as {NAME} (/models/teacher) by vllm 0.11.0\n" in printed
    assert standin.address not in printed
    standin.names = ["other"]
    assert "is of a cache with other settings (model_hash is 'served as owner/teacher" in refuse(capsys, *asked)


def test_several_texts_are_asked_for_at_a_time(
    capsys: pytest.CaptureFixture[str], standin: Standin, asked: list[object], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"prompt": "a" * n, "response": "b"} for n in range(12)])
    standin.barrier = threading.Barrier(3)
    run(capsys, *asked, "--concurrency", 3)
    assert standin.together == 3
    cache = TeacherCache(find_shards(tmp_path / "served"))
    assert cache.digests == [digest_text(("a" * n, "b")) for n in range(12)]


def test_a_busy_server_is_asked_again(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    standin: Standin,
    asked: list[object],
    of_folder: TeacherCache,
    tmp_path: Path,
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", wait)
    standin.statuses = [(503, "loading", {}), (429, "slowly", {"Retry-After": "9"}), (500, "", {}), (529, "", {})]
    run(capsys, *asked, "--concurrency", 1)
    assert [*map(round, waits)] == pytest.approx([1, 9, 4, 8], abs=2)
    assert waits[1] == 9
    assert "answers 503 Service Unavailable (loading); again in 1 s" in caplog.text
    for found, expected in zip(TeacherCache(find_shards(tmp_path / "served")), of_folder, strict=True):
        assert_same(found, expected)
    shutil.rmtree(tmp_path / "served")
    standin.statuses = [(503, "\x1b[2Jloading\nmore", {})] * 3
    sentence = refuse(capsys, *asked, "--concurrency", 1, "--attempts", 3)
    assert "answers 503 Service Unavailable ([2Jloading), asked 3 times for text 1; what is whole is kept" in sentence


def test_a_silent_server_is_asked_again(
    capsys: pytest.CaptureFixture[str], standin: Standin, asked: list[object]
) -> None:
    standin.delay = 0.5
    sentence = refuse(capsys, *asked, "--timeout", 0.05, "--attempts", 1)
    assert "can't be reached (ReadTimeout), asked 1 times for text" in sentence


def test_a_server_that_is_loading_is_asked_again_what_it_serves(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    standin: Standin,
    asked: list[object],
    tmp_path: Path,
) -> None:
    """Else the cache would be of another engine than the one that the next run sees."""
    monkeypatch.setattr("logitfusion.distill.served.server._FIRST_WAIT", 0.0)
    standin.loading = ["/v1/models", "/version"]
    run(capsys, *asked)
    assert standin.loading == []
    assert "by vllm 0.11.0\n" in run(capsys, "distill-cache", "--verify", tmp_path / "served")


@pytest.mark.parametrize("kill", [BrokenPipeError, KeyboardInterrupt])
def test_a_killed_run_goes_on(
    standin: Standin, folder: Path, of_folder: TeacherCache, tmp_path: Path, kill: type[BaseException]
) -> None:
    """Texts of pieces that are whole are not asked for again."""
    tokenizer = load_tokenizer(folder)
    texts = encode_texts(tokenizer, [(row["prompt"], row["response"]) for row in ROWS])
    server = Server(Endpoint(endpoint=standin.address, concurrency=1))
    source = {name: of_folder.settings[name] for name in SOURCE if name != "model_hash"}

    def make(on_batch: Callable[[int], None] | None = None) -> list[Path]:
        options = {"source": source, "k": K, "piece_tokens": 1, "on_batch": on_batch}
        return cache_served(server, describe(server), tokenizer, 259, texts, tmp_path / "served", **options)

    def stop(_: int) -> None:
        if len(standin.asked) == 3:
            raise kill

    with pytest.raises(kill):
        make(stop)
    before = len(standin.asked)
    paths = make()
    assert len(standin.asked) == before + 1 + len(ROWS) - 2  # one of the others is compared
    for found, expected in zip(TeacherCache(paths), of_folder, strict=True):
        assert_same(found, expected)


def test_another_model_of_the_same_name_is_seen(
    capsys: pytest.CaptureFixture[str],
    loaded: dict[str, PreTrainedModel],
    standin: Standin,
    asked: list[object],
    tmp_path: Path,
) -> None:
    run(capsys, *asked, "--shards", 2, "--shard", 2)
    (made,) = find_shards(tmp_path / "served")
    standin.model = loaded["large"]
    sentence = refuse(capsys, *asked, "--shards", 2)
    assert f"The server now has another model than when {made} was made" in sentence
    assert find_shards(tmp_path / "served") == [made]
    standin.model = loaded["base"]
    run(capsys, *asked, "--shards", 2)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_model_that_changes_while_the_server_is_away_is_seen(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    loaded: dict[str, PreTrainedModel],
    standin: Standin,
    asked: list[object],
    tmp_path: Path,
    swapped: bool,
) -> None:
    monkeypatch.setattr("logitfusion.distill.served.server._FIRST_WAIT", 0.0)

    def restart(answer: dict[str, Any]) -> dict[str, Any]:
        if len(standin.asked) == 2:  # after texts of one model
            standin.statuses = [(503, "loading", {})]
            standin.model = loaded["large" if swapped else "base"]
        return answer

    standin.garble = restart
    if swapped:
        assert "The server was away and has another model now" in refuse(capsys, *asked, "--concurrency", 1)
        assert not [*tmp_path.rglob("teacher-*.safetensors")]
    else:
        run(capsys, *asked, "--concurrency", 1)


def test_a_key_is_sent_and_never_shown(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    standin: Standin,
    asked: list[object],
    tmp_path: Path,
) -> None:
    caplog.set_level("DEBUG")
    standin.key = "s3cret"
    monkeypatch.setenv("TEACHER_KEY", standin.key)
    assert "401 Unauthorized (Unauthorized: None); name the environment variable" in refuse(capsys, *asked)
    run(capsys, *asked, "--key-variable", "TEACHER_KEY")
    assert standin.key.encode() not in b"".join(path.read_bytes() for path in find_shards(tmp_path / "served"))
    monkeypatch.setenv("TEACHER_KEY", "wr0ng")
    shutil.rmtree(tmp_path / "served")
    assert "(Unauthorized: Bearer ***)" in refuse(capsys, *asked, "--key-variable", "TEACHER_KEY")
    for variable, value in (("NONE", ""), ("TEACHER_KEY", "two\nlines"), ("s3cret", "")):
        monkeypatch.setenv(variable, value)
        sentence = refuse(capsys, *asked, "--key-variable", variable)
        assert "The environment variable that --key-variable names holds no key" in sentence
        assert "s3cret" not in sentence
    assert "s3cret" not in caplog.text
    assert "wr0ng" not in caplog.text


def test_a_key_is_hidden_in_whatever_a_server_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, standin: Standin, asked: list[object]
) -> None:
    key = 'a"b\\c'
    monkeypatch.setenv("TEACHER_KEY", key)
    server = Server(Endpoint(endpoint=standin.address, key_variable="TEACHER_KEY"))
    answer = httpx2.Response(401, json={"seen": [key]}, extensions={"reason_phrase": f"not {key}".encode()})
    shown = server.explain_refusal(answer, "text 1")
    assert "401 not ***" in shown
    assert shown.count("***") == 2
    standin.garble = each(lambda entry: {n: {**one, "decoded_token": key} for n, one in entry.items()})
    sentence = refuse(capsys, *asked, "--key-variable", "TEACHER_KEY", "--concurrency", 1)
    assert "as '***', and the teacher's" in sentence


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks5://me:s3cret@127.0.0.1:9", "names needs the package socksio; correct it, or set NO_PROXY"),
        ("HTTP_PROXY", "ftp://me:s3cret@host", "A proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names can't be used"),
        ("HTTP_PROXY", "http://127.0.0.1:1", "start it, or correct it, or the proxy of the environment."),
        ("SSL_CERT_FILE", "/nowhere", "The certificates that SSL_CERT_FILE names can't be read ([Errno 2]"),
    ],
)
def test_what_the_environment_says_of_connections_is_told_where_it_is_wrong(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: list[object],
    variable: str,
    value: str,
    words: str,
) -> None:
    for name in ("NO_PROXY", "HTTP_PROXY"):
        for other in (name, name.lower()):
            monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as where it is not installed
    sentence = refuse(capsys, *asked)
    assert words in sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--served-model", "x"], f"has no model 'x'; it has '{NAME}'."),
        (["--endpoint", "127.0.0.1:8000"], "--endpoint must be an address as http://127.0.0.1:8000/v1, without"),
        (["--endpoint", "http://me:s3cret@host/v1"], "without user, password and query"),
        (["--endpoint", "http://host:x/v1"], "--endpoint must be an address"),
        (["--endpoint", "http://127.0.0.1:1/v1"], "No server answers at http://127.0.0.1:1/v1 ("),
        (["--dtype", "fp32"], "--dtype is of a teacher that is read here; leave it out with --endpoint."),
        (["--batch-size", "4"], "--batch-size is of a teacher that is read here"),
        (["--protocol", "openai"], "--protocol must be one of vllm, sglang, echo"),
        (["--k", 260], "k is 260, and must be from 1 to the teacher's 259 tokens"),
        (["--k", 9], "greater than max allowed: 8); start it with --max-logprobs of k at least, or lower --k."),
    ],
)
def test_what_can_not_be_asked_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str],
    standin: Standin,
    asked: list[object],
    tmp_path: Path,
    options: list[object],
    words: str,
) -> None:
    standin.max_logprobs = 8
    sentence = refuse(capsys, *asked, *options)
    assert words in sentence
    assert "s3cret" not in sentence
    assert not [*tmp_path.glob("served/*.safetensors")]


def test_servers_of_several_models_and_of_short_texts(
    capsys: pytest.CaptureFixture[str], standin: Standin, asked: list[object], tmp_path: Path
) -> None:
    standin.names = ["one", "two"]
    assert "has several models; give --served-model, one of 'one', 'two'." in refuse(capsys, *asked)
    standin.context = 12
    sentence = refuse(capsys, *asked, "--served-model", "two")
    assert "Text 1 has 24 tokens, and the server can be asked for 11 at most; lower --max-tokens to 11." in sentence
    assert standin.asked == []
    run(capsys, *asked, "--served-model", "two", "--max-tokens", 11)
    assert {body["model"] for body in standin.asked} == {"two"}


def test_options_of_a_server_need_its_address(capsys: pytest.CaptureFixture[str], asked: list[object]) -> None:
    assert "--concurrency needs --endpoint." in refuse(capsys, *asked[:-2], "--concurrency", 3)


def garbled(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """Answers of vLLM with other log-probabilities of the text."""

    def garble(answer: dict[str, Any]) -> Any:
        found = answer["choices"][0]["prompt_logprobs"]
        answer["choices"][0]["prompt_logprobs"] = change(found)
        return answer

    return garble


def each(change: Callable[[dict[int, dict[str, Any]]], Any]) -> Callable[[dict[str, Any]], Any]:
    return garbled(lambda found: [entry and change(entry) for entry in found])


@pytest.mark.parametrize(
    ("garble", "words"),
    [
        (lambda _: b"<html>", "is none of the protocol vllm (its content can't be used (Invalid JSON"),
        (lambda _: {"choices": []}, "is none of the protocol vllm (its choices must hold at least 1"),
        (
            lambda _: {"error": "x"},
            "is none of the protocol vllm (its content lacks the key 'choices'); choose another",
        ),
        (garbled(lambda _: None), "has no prompt_logprobs, which vLLM gives; choose another --protocol."),
        (garbled(lambda found: found[:-1]), "positions, and"),
        (garbled(lambda found: [*found[:-1], None]), "lacks the log-probability of a token that was sent."),
        (each(lambda entry: dict([*entry.items()][1:])), "lacks the log-probability of a token that was sent."),
        (each(lambda entry: dict([*entry.items()][: K - 1])), "log-probabilities of a position, not 7; start it with"),
        (each(lambda entry: {**entry, 259: {"logprob": -1.0}}), "has the token 259, which is none of the 259"),
        (each(lambda entry: {**entry, -3: {"logprob": -1.0}}), "has the token -3, which is none of the 259"),
        (each(lambda entry: {n: {"logprob": 3.0} for n in entry}), "gives the log-probability 3; the server may give"),
        (each(lambda entry: {n: {"logprob": float("nan")} for n in entry}), "gives the log-probability nan"),
        (each(lambda entry: {n: {"logprob": -0.5} for n in entry}), "their probabilities come to 4.2"),
        (
            each(lambda entry: {n: {"logprob": -33.0} for n in entry}),
            "to 0.0000, and those of all others to 0.0000 at most",
        ),
        (garbled(lambda found: [*found[:1], *found]), "is of other tokens than were sent."),
        (garbled(lambda found: [None, found[-1], *found[2:]]), "lacks the log-probability of a token that was sent."),
        (
            each(lambda entry: {n: {**one, "decoded_token": f"{n}x"} for n, one in entry.items()}),
            "is of another tokenizer: it reads the token",
        ),
        (
            lambda answer: {"choices": [{**answer["choices"][0], "prompt_token_ids": [1, 2]}]},
            "is of other tokens than were sent.",
        ),
    ],
)
def test_answers_that_can_not_be_right_are_refused(
    capsys: pytest.CaptureFixture[str],
    standin: Standin,
    asked: list[object],
    tmp_path: Path,
    garble: Callable[[dict[str, Any]], Any],
    words: str,
) -> None:
    standin.garble = garble
    sentence = refuse(capsys, *asked, "--concurrency", 1)
    assert words in sentence
    assert f"The answer of {standin.address} to text 1 " in sentence
    assert not [*tmp_path.glob("served/*.safetensors")]
    assert len(standin.asked) <= 2  # the next one may be on its way


@pytest.mark.parametrize("told", [False, True])
def test_tokens_are_known_by_their_texts(told: bool) -> None:
    """Of servers with echo, unless they give ids."""
    a, b, c = TOKENIZER.encode("abc")
    said = {
        "tokens": ["a", "b", "?"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"b": -1.0, "c": -3.0}, {f"token_id:{b}": -0.5}],
        "token_ids": [a, b, c] if told else None,
    }
    content = json.dumps({"choices": [{"logprobs": said}]}).encode()
    found = Echo(TOKENIZER).read(content, EncodedText((a, b, c), 1, (1, 2)))
    last = c if told else TOKENIZER.encode("?")[0]  # which is not what was sent
    assert found == [Position(b, -1.0, {b: -1.0, c: -3.0}), Position(last, -2.0, {b: -0.5})]


def test_texts_that_several_tokens_have_are_refused(
    capsys: pytest.CaptureFixture[str], standin: Standin, asked: list[object]
) -> None:
    sentence = refuse(capsys, *asked, "--protocol", "echo", "--concurrency", 1)
    assert (
        "names a token '\ufffd', which is the text of several tokens" in sentence
        or "log-probabilities of a" in sentence
    )


def test_other_protocols_are_told_apart(
    capsys: pytest.CaptureFixture[str], standin: Standin, asked: list[object]
) -> None:
    standin.garble = lambda answer: {"choices": [{"text": "x", "logprobs": None}], "meta_info": {}}
    for protocol, words in {
        "vllm": "has no prompt_logprobs",
        "sglang": "is none of the protocol sglang (its meta_info lacks the key 'input_token_logprobs'",
        "echo": "has no log-probabilities of the text itself",
    }.items():
        assert words in refuse(capsys, *asked, "--protocol", protocol, "--concurrency", 1)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(scale=st.floats(0.1, 60), seed=st.integers(0, 1000), vocabulary=st.integers(2, 40), data=st.data())
def test_the_tail_is_what_is_missing_from_1(scale: float, seed: int, vocabulary: int, data: st.DataObject) -> None:
    """Against the sum of all others in float64: off by single precision's rounding, and never 0 where that is not."""
    logits = scale * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
    exact, told = logits.double().log_softmax(-1), logits.log_softmax(-1).tolist()
    k, label = data.draw(st.integers(1, vocabulary)), data.draw(st.integers(0, vocabulary - 1))
    order = exact.argsort(descending=True)
    top = {number: told[number] for number in order[:k].tolist()}
    answers = Answers(TOKENIZER, vocabulary, k, "")
    text = EncodedText((0, label), 1, (1,))
    found = answers.assemble([Position(label, told[label], top)], text)
    rest = exact[order[k:]].exp().sum().item()
    tail, last = found.tail.item(), exact[order[k - 1]].exp().item()
    assert abs(tail - rest) <= 1e-6 * max(1, logits.abs().max().item())
    if last > 1e-30:  # beyond, single precision has no more digits for a probability
        assert (tail > 0) == (rest > 0)
        assert tail >= (1 - 1e-4) * (0 if label in top else exact[label].exp().item())
        assert tail <= (1 + 1e-4) * (vocabulary - k) * last
    assert found.ids[0].tolist() == [*top]
