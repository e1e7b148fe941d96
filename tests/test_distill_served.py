"""``logitfusion distill-cache --endpoint``: the cache is that of the model's folder, and bad answers are told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import run
from served_standin import NAME, Standin, serve
from transformers import PreTrainedModel

from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.shard import TeacherText
from logitfusion.files import write_jsonl
from logitfusion.models.load import load_tokenizer

ROWS = [
    {"prompt": "What is 2 + 2?", "response": " It is 4."},
    {"prompt": "Grüße", "response": " → ü"},
    {"prompt": "", "response": "a"},
    {"prompt": "nothing", "response": ""},
]
K = 7


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
    assert torch.equal(found.ids, expected.ids)
    step = 2.0**-10  # of fp16
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=step, atol=1e-6)
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
