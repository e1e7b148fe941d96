"""``logitfusion distill-cache``: its cache is the package's, and errors are one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refuse, run
from rounded import assert_same
from test_text import make_model

from logitfusion.cli.distill_cache import Progress
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import digest_text, encode_text, encode_texts
from logitfusion.distill.shard import hash_texts
from logitfusion.distill.teacher import read_teacher
from logitfusion.errors import UserError
from logitfusion.files import read_json, write_jsonl
from logitfusion.models.identity import hash_model, hash_tokenizer, hash_vocabulary
from logitfusion.models.load import load_model, load_tokenizer, save_model
from logitfusion.models.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[1]
ROWS = [
    {"prompt": "Hello", "response": " world"},
    {"prompt": "Grüße", "response": " →", "id": 3},
    {"prompt": "1 + 1 =", "response": " 2"},
]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "texts.jsonl", ROWS)
    return tmp_path / "texts.jsonl"


@pytest.fixture
def asked(tiny_models: dict[str, Path], texts: Path, tmp_path: Path) -> list[object]:
    return ["distill-cache", "--teacher", tiny_models["base"], "--texts", texts, "--k", 5, "--output", tmp_path / "out"]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_cache_is_what_the_package_makes(
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
    asked: list[object],
    tmp_path: Path,
    shards: int,
    name: str,
    dtype: torch.dtype,
) -> None:
    options = ["--shards", shards, "--dtype", name, "--max-tokens", 6, "--batch-size", 1]
    *paths, summary = run(capsys, *asked, *options).splitlines()
    assert paths == [str(path) for path in find_shards(tmp_path / "out")]
    assert len(paths) == shards
    expected = {
        "model_hash": hash_model(tiny_models["base"]),
        "tokenizer_hash": hash_tokenizer(tiny_models["base"]),
        "vocabulary_hash": hash_vocabulary(load_tokenizer(tiny_models["base"])),
        "data_hash": hash_texts((row["prompt"], row["response"]) for row in ROWS),
        "template": "plain",
        "max_tokens": 6,
        "k": 5,
        "vocabulary": 259,
        "rounding": "fine",
        "dtype": str(dtype).removeprefix("torch."),
        "shards": shards,
    }
    cache = TeacherCache(paths, expected)
    tokenizer = load_tokenizer(tiny_models["base"])
    encoded = [encode_text(tokenizer, row["prompt"], row["response"], template="plain", max_tokens=6) for row in ROWS]
    model = load_model(tiny_models["base"], dtype=dtype)
    for found, expected in zip(cache, read_teacher(model, encoded, k=5, batch_size=1), strict=True):
        assert_same(found, replace(expected, digest=found.digest))
    assert cache.digests == [digest_text((row["prompt"], row["response"])) for row in ROWS]
    tokens = sum(len(text.labels) for text in encoded)
    assert summary.startswith(f"3 texts, {tokens} tokens, 23 bytes/token, ")
    assert summary.endswith(" tokens/s")


def test_a_second_call_computes_nothing(
    capsys: pytest.CaptureFixture[str], asked: list[object], tmp_path: Path
) -> None:
    run(capsys, *asked, "--shards", 3, "--shard", 2)
    (made,) = find_shards(tmp_path / "out")
    before = made.stat().st_mtime_ns
    assert len(run(capsys, *asked, "--shards", 3).splitlines()) == 4
    assert len(TeacherCache(find_shards(tmp_path / "out"))) == 3
    assert run(capsys, *asked, "--shards", 3).endswith(" 0.0 tokens/s\n")
    assert made.stat().st_mtime_ns == before


def test_a_cache_of_other_settings_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], asked: list[object], tmp_path: Path, texts: Path
) -> None:
    run(capsys, *asked)
    (path,) = find_shards(tmp_path / "out")
    before = path.read_bytes()
    for field, options in {"k": ["--k", 6], "dtype": ["--dtype", "bf16"], "max_tokens": ["--max-tokens", 9]}.items():
        sentence = refuse(capsys, *asked, *options)
        assert f"{path} is of a cache with other settings ({field} is" in sentence
    write_jsonl(texts, ROWS[::-1])
    assert "(data_hash is" in refuse(capsys, *asked)
    assert path.read_bytes() == before
    assert sorted((tmp_path / "out").iterdir()) == [path, tmp_path / "out/tokenizer"]


def test_a_cache_is_verified(capsys: pytest.CaptureFixture[str], asked: list[object], tmp_path: Path) -> None:
    run(capsys, *asked, "--shards", 2)
    printed = run(capsys, "distill-cache", "--verify", tmp_path / "out")
    assert "k: 5\n" in printed
    assert "template: plain\n" in printed
    assert printed.endswith("whole\n")
    paths = find_shards(tmp_path / "out")
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"\xff")
    assert f"{paths[1]} is damaged" in refuse(capsys, "distill-cache", "--verify", tmp_path / "out")
    paths[1].unlink()
    assert "Shard 2 of 2 is missing" in refuse(capsys, "distill-cache", "--verify", tmp_path / "out")
    assert "holds no teacher cache" in refuse(capsys, "distill-cache", "--verify", tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--teacher", "nowhere"], "The model folder nowhere does not exist"),
        (["--teacher", ROOT / "tests"], "The tokenizer in"),
        (["--texts", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--k", 260], "k is 260, and must be from 1 to the teacher's 259 tokens"),
        (["--k", 0], "at least 1"),
        (["--batch-size", 0], "at least 1"),
        (["--shards", 0], "at least 1"),
        (["--shards", 4], "from 1 to the number of texts, 3"),
        (["--shard", 2], "numbered from 1 to 1"),
        (["--max-tokens", 1], "--max-tokens must be at least 2"),
        (["--output", __file__], "is a file, not a folder"),
        (["--template", "chat"], "no chat template"),
    ],
)
def test_what_can_not_be_done_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], asked: list[object], tmp_path: Path, options: list[object], words: str
) -> None:
    assert words in refuse(capsys, *asked, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a"}', 'line 2, needs a text under "response"'),
        ('{"prompt": "a", "response": 1}', 'line 1, needs a text under "response"'),
        ('{"prompt": "a", "completion": 1}', 'line 1, needs a text under "completion"'),
        ('{"prompt": "a", "response": "b", "completion": "c"}', 'line 1, has both a "response" and a "completion"'),
        ("a\n", "line 1, is not JSON"),
        ("\n", "holds no texts"),
    ],
)
def test_texts_that_can_not_be_used_are_refused(
    capsys: pytest.CaptureFixture[str], asked: list[object], texts: Path, content: str, words: str
) -> None:
    texts.write_text(content)
    sentence = refuse(capsys, *asked)
    assert words in sentence
    assert "texts.jsonl" in sentence


def test_a_text_that_the_teacher_can_not_read_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_models: dict[str, Path], asked: list[object], tmp_path: Path
) -> None:
    limit = read_json(tiny_models["base"] / "config.json")["max_position_embeddings"]
    write_jsonl(tmp_path / "texts.jsonl", [*ROWS, {"prompt": "a" * limit, "response": "b"}])
    sentence = refuse(capsys, *asked)
    assert f"Text 4 has {limit + 2} tokens" in sentence
    assert f"{tiny_models['base']} reads at most {limit}; lower --max-tokens to {limit}." in sentence
    assert not (tmp_path / "out").exists()
    assert run(capsys, *asked, "--max-tokens", limit)


def test_all_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--texts, --k, --output too" in refuse(capsys, "distill-cache", "--teacher", "x")


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from logitfusion.cli import main\n"
        "try: main(['distill-cache', '--help'])\n"
        "finally: print(sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True).stdout
    assert "--teacher" in printed
    assert "--large" not in printed
    assert printed.endswith("[]\n")


def test_progress_is_told_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    progress = Progress(total=100)
    progress.find(40)  # of an earlier run: not of this run's speed
    for _ in range(4):
        seconds[0] += 2
        progress.compute(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["70 of 100 tokens, 5.0 tokens/s, about 6 s left"]
    assert progress.rate() == 5.0


def test_hashes_are_of_what_decides(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["base"], folder)
    model, tokenizer = hash_model(folder), hash_tokenizer(folder)
    assert (model, tokenizer) == (hash_model(tiny_models["base"]), hash_tokenizer(tiny_models["base"]))
    (folder / "README.md").write_text("x")
    assert (hash_model(folder), hash_tokenizer(folder)) == (model, tokenizer)
    (folder / "chat_template.jinja").write_text("x")
    assert hash_model(folder) == model
    assert hash_tokenizer(folder) != tokenizer
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert hash_model(folder) not in (model, hash_model(tiny_models["large"]))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="holds no whole model"):
        hash_model(folder)
    with pytest.raises(UserError, match="holds no tokenizer"):
        hash_tokenizer(tmp_path)


def test_chats_of_several_turns_are_cached(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(pairs=True)
    folder = tmp_path / "teacher"
    save_model(make_model(tokenizer), tokenizer, folder)
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate("abcd")]
    texts = [turns, ("a", "b")]
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns}, {"prompt": "a", "response": "b"}])
    asked = ["distill-cache", "--teacher", folder, "--texts", tmp_path / "chats.jsonl", "--k", 3]
    out = tmp_path / "out"
    run(capsys, *asked, "--output", out, "--template", "chat", "--system", "Be brief.")
    cache = TeacherCache(find_shards(out), {"data_hash": hash_texts(texts), "template": 'chat system "Be brief."'})
    expected = encode_texts(tokenizer, texts, template="chat", system="Be brief.")
    assert [tuple(text.ends.tolist()) for text in cache] == [text.ends for text in expected]
    assert [len(text.labels) for text in expected] == [4, 2]
    for sentence, *options in (
        ("line 1, has messages; add --template chat.", "--output", out),
        ("--system needs --template chat.", "--output", out, "--system", "Be brief."),
        ("is of a cache with other settings (template is", "--output", out, "--template", "chat"),
    ):
        assert sentence in refuse(capsys, *asked, *options)
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns, "response": "b"}])
    assert "both a response and messages" in refuse(capsys, *asked, "--output", out, "--template", "chat")
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": [*turns, {"role": "assistant"}]}])
    sentence = 'line 1, message 5, needs a text under "content".'
    assert sentence in refuse(capsys, *asked, "--output", out, "--template", "chat")
