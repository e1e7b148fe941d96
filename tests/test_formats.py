"""Text formats that people and other programs write: read as they mean, or refused by name and line."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logitfusion.errors import UserError
from logitfusion.files import read_json, read_jsonl, sha256
from logitfusion.formats import text
from logitfusion.formats.csv import read_csv, read_written_csv
from logitfusion.formats.json import DEEPEST, parse_json
from logitfusion.formats.jsonl import read_rows
from logitfusion.formats.text import decode, read_lines, read_text, split_lines
from logitfusion.formats.yaml import MOST, parse_yaml, read_yaml

REUSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
BOM = b"\xef\xbb\xbf"
HALF = "\ud800"


def refused(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence[-1] in ".?"
    assert len(sentence) < 500
    return sentence


def read_all(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda path: list(function(path))


READERS: dict[str, Callable[[Path], Any]] = {
    "text": read_text,
    "lines": read_all(read_lines),
    "json": read_json,
    "rows": read_all(read_rows),
    "objects": read_jsonl,
    "csv": lambda path: read_csv(path, "list"),
    "written csv": lambda path: read_written_csv(path, "list"),
    "yaml": read_yaml,
    "digest": sha256,
}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
every_format = pytest.mark.parametrize("read", [READERS[key] for key in READERS if key != "digest"])


# ---- files ------------------------------------------------------------------------------------------------------


@every_reader
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert "is a pipe" in refused(read, tmp_path / "pipe")
    assert "is a pipe" in refused(read, tmp_path / "link")
    assert "is a device" in refused(read, Path("/dev/zero"))
    assert "is a folder" in refused(read, tmp_path)
    assert "does not exist" in refused(read, tmp_path / "absent")
    assert "can't be read" in refused(read, tmp_path / ("x" * 300))
    assert "can't be read" in refused(read, tmp_path / "nul\0l")


@every_reader
def test_a_pipe_that_a_shell_made_is_read(read: Callable[[Path], Any]) -> None:
    """``<(command)`` is a name of an open pipe."""
    content = b'{"a": 1}'
    out, into = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(into, content), os.close(into)))
    writer.start()
    try:
        assert read(Path(f"/dev/fd/{out}"))
    finally:
        writer.join()
        os.close(out)


def test_a_file_of_any_size_costs_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(2**40)  # takes no place on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, read in READERS.items():
        if name != "digest":
            assert "more than" in refused(read, tmp_path / "zeros")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "KiB, of 2**30"


def test_a_stream_without_an_end_is_refused() -> None:
    with Path("/dev/zero").open("rb") as endless:
        assert "more than 1,000 bytes" in refused(lambda: text.read_stream(endless, "It", largest=1000))
        assert "line 1, has more than" in refused(lambda: list(text.stream_lines(endless, "It")))


# ---- text -------------------------------------------------------------------------------------------------------


@every_format
def test_what_is_not_utf8_is_named_with_its_line(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    (tmp_path / "file").write_bytes(b'{"a": 1}\n\n{"a": "\xe9"}\n')
    assert "line 3, is not UTF-8" in refused(read, tmp_path / "file") or read is read_json
    (tmp_path / "file").write_bytes("text".encode("utf-16"))
    assert "line 1, is not UTF-8" in refused(read, tmp_path / "file")
    (tmp_path / "file").write_bytes(b'{"a": "\xed\xa0\x80"}')  # a half surrogate
    assert "line 1, is not UTF-8" in refused(read, tmp_path / "file")


@every_format
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends_change_nothing(tmp_path: Path, read: Callable[[Path], Any], ends: str) -> None:
    if read is read_text:
        pytest.skip("the text as it is")
    (tmp_path / "plain").write_bytes(b'{"a": 1}\n{"a": 2}\n' if read is not READERS["yaml"] else b"a: 1\nb: [2,\n 3]\n")
    if read is read_json:
        (tmp_path / "plain").write_bytes(b'{"a": 1,\n"b": 2}\n')
    other = (tmp_path / "plain").read_bytes().replace(b"\n", ends.encode())
    (tmp_path / "other").write_bytes(BOM + other)
    assert read(tmp_path / "other") == read(tmp_path / "plain")


@REUSE
@given(written=st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=5))
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_are_those_that_were_written(tmp_path: Path, written: list[str], ends: str) -> None:
    """Whatever characters they are of: U+2028 and the like end no line."""
    whole = "".join(line + ends for line in written)
    (tmp_path / "lines").write_bytes(whole.encode())
    assert split_lines(whole) == [*written, ""]
    if written:
        written[0] = written[0].removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    assert list(read_lines(tmp_path / "lines")) == list(enumerate(written, start=1))


@REUSE
@given(content=st.binary(max_size=64))
def test_bytes_are_text_exactly_where_python_says_so(content: bytes) -> None:
    try:
        expected = content.removeprefix(BOM).decode()
    except UnicodeDecodeError:
        assert f"line {len(content.split(chr(10).encode()))}" >= refused(decode, content, "It")[4:10]
    else:
        assert decode(content, "It") == expected


# ---- JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('{"seed": 1, "seed": 2}', "the key 'seed' is there twice"),
        ('[{"a": {"b": 1, "c": 2, "b": 1}}]', "the key 'b' is there twice"),
        (r'{"a": "\ud800"}', "not Unicode"),
        (r'{"\udfff": 1}', "not Unicode"),
        ("[" * 100_000, "nested more than"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested more than"),
        ('{"a":' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "nested more than"),
        ("9" * 5000, "too many digits"),
        ('{"a": 1,\n "b": }', "line 2, column 7"),
        ("{'a': 1}", "line 1, column 2"),
        ("", "line 1, column 1"),
        ("1 2", "Extra data"),
    ],
)
def test_json_that_may_mean_something_else_is_refused(written: str, words: str) -> None:
    assert words in refused(parse_json, written, "It")


def test_json_up_to_the_limit_is_read() -> None:
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(deep, "It") == json.loads(deep)
    wide = json.dumps([[{}] * 50] * 50)
    assert parse_json(wide, "It") == json.loads(wide)
    assert parse_json(r'["\ud83d\ude00"]', "It") == ["\N{GRINNING FACE}"]
    assert parse_json('{"limit": [0.0, Infinity]}', "It") == {"limit": [0.0, float("inf")]}, "as configs of models have"


def test_rows_are_named_by_their_lines(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(BOM + b'{"a": 1}\r\n\r\n[2]\r\n{"a": 1, "a": 1}')
    rows = read_rows(tmp_path / "rows")
    assert [next(rows), next(rows)] == [(1, {"a": 1}), (3, [2])]
    assert f"{tmp_path / 'rows'}, line 4," in refused(next, rows)
    assert "line 3, is no JSON object" in refused(read_jsonl, tmp_path / "rows")


@REUSE
@given(written=st.text(max_size=40) | st.text('[]{}":,0123456789.eE-truefalsn\\ud8 \n', max_size=60))
def test_json_is_read_as_python_reads_it_or_refused(written: str) -> None:
    try:
        found = parse_json(written, "It")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert repr(found) == repr(json.loads(written))


# ---- CSV --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1\n", "line 2, has 1 cells for 2 columns"),
        ("a,b\n1,2\n\n1,2,3\n", "line 4, has 3 cells for 2 columns"),
        ('a,b\n"1,2\n', "is no CSV in UTF-8 (unexpected end of data)"),
        ('a,b\n1,"2"x\n', "line 2, is no CSV"),
        ("a,b\n1,\0\n", "line 2, has a null character"),
        ("a,a\n1,2\n", "has a column twice"),
        (f"a\n{'x' * 200_000}\n", "line 2, is no CSV in UTF-8 (field larger than"),
    ],
)
@pytest.mark.parametrize("read", [read_csv, read_written_csv])
def test_csv_that_is_none_is_named_with_its_line(tmp_path: Path, read: Any, content: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    assert words in refused(read, tmp_path / "list.csv", "list")


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
CELLS = st.lists(st.lists(CELL, min_size=2, max_size=2))


@REUSE
@given(rows=CELLS)
def test_csv_comes_back_as_it_was_written(tmp_path: Path, rows: list[list[str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["a", "b"], *rows])
    (tmp_path / "list.csv").write_bytes(written.getvalue().encode())
    columns, found = read_csv(tmp_path / "list.csv", "list")
    assert columns == ["a", "b"]
    assert [[row["a"], row["b"]] for row in found] == rows


# ---- YAML -------------------------------------------------------------------------------------------------------


def multiply(levels: int) -> str:
    """Every level holds ten of the one before it."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("seed: 1\nrun: x\nseed: 2", "line 3, has the key 'seed' a second time, after line 1"),
        ("a: {b: 1, b: 1}", "line 1, has the key 'b' a second time"),
        ("1: a\n1.0: b", "has the key 1.0 a second time"),
        ("yes: a\ntrue: b", "has the key True a second time"),
        ("? [a]\n: b", "a key that is no text or number"),
        (multiply(12), "its aliases multiply"),
        ("a: &a [*a]", "nested more than"),
        ("a: &a {b: {c: *a}}", "nested more than"),
        ("[" * 5_000, "nested more than"),
        ("[" * 101 + "]" * 101, "nested more than"),
        ("a: 1\nb: 010", "line 2, has 010, which YAML reads as another number"),
        ("a: 12:30", "which YAML reads as another number"),
        ("a: 12:30.5", "which YAML reads as another number"),
        ("a: 2024-01-01", "which YAML reads as a date"),
        ("a: 2024-13-45", "which YAML reads as a date"),
        ("a: !!int x", "can't be read as int"),
        ("a: !!bool x", "can't be read as bool"),
        ("a: !!binary aGk=", "is not known here"),
        ("a: !!set {a}", "is not known here"),
        ("a: !!python/object/apply:os.system [true]", "is not known here"),
        ("a: !mine x", "is not known here"),
        (f"a: {'9' * 5000}", "can't be read as int"),
        (r'a: "\ud800"', "not Unicode"),
        ("a: \0", "a character that YAML has not"),
        ("a: [", "line 1: "),
        ("a: b\n\tc: d", "line 2: "),
        ("a: *b", "undefined alias"),
        ("a\n---\nb", "single document"),
    ],
)
def test_yaml_that_may_mean_something_else_is_refused(written: str, words: str) -> None:
    assert words in refused(parse_yaml, written, "It")


def test_yaml_with_aliases_and_merges_is_read() -> None:
    written = "base: &base {a: 1, b: [x]}\nsame: *base\nother: {<<: *base, a: 2}\nall: [*base, *base]"
    assert parse_yaml(written, "It") == yaml.safe_load(written)
    assert parse_yaml(multiply(4), "It") == yaml.safe_load(multiply(4)), f"fewer than {MOST}"
    twice = "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, x: 3}"
    assert parse_yaml(twice, "It") == yaml.safe_load(twice)


def test_yaml_has_the_tags_that_a_reader_knows() -> None:
    assert parse_yaml("a: !mine x", "It", tags={"!mine": lambda _, node: node.value * 2}) == {"a": "xx"}
    assert "is not known here" in refused(parse_yaml, "a: !mine x", "It")


@REUSE
@given(written=st.text("ab: -[]{}&*<!'\"\n01,#|>%@`?~.e", max_size=60) | st.text(max_size=30))
def test_yaml_is_read_as_pyyaml_reads_it_or_refused(written: str) -> None:
    try:
        found = parse_yaml(written, "It")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert repr(found) == repr(yaml.safe_load(written))


# PyYAML writes Unicode's own line ends as they are in keys, and reads them as spaces.
TEXTS = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@REUSE
@given(value=VALUES)
def test_what_pyyaml_writes_is_read_as_it_was(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "It") == value


# ---- nobody else reads them ---------------------------------------------------------------------------------------

CALLS = {"json.load", "yaml.safe_load", "yaml.load", "csv.reader", "csv.DictReader", "sys.stdin.read"}
# Where what is parsed was written by this very program, or lies in the package.
KNOWN = {
    "plan/models.py": {"json.loads"},
    "plan/saved.py": {"json.loads"},
    "cli/evaluate.py": {"json.loads"},
    "tasks/hub_rows.py": {"json.loads"},
    "report/published/__init__.py": {"csv.DictReader"},
}


def foreign_readers(source: str) -> set[str]:
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    return calls & (CALLS | {"json.loads"})


def test_formats_alone_read_what_others_write() -> None:
    package = ROOT / "workflow/logitfusion"
    paths = {str(path.relative_to(package)): path for path in package.rglob("*.py") if path.parent.name != "formats"}
    found = {place: foreign_readers(path.read_text(encoding="utf-8")) for place, path in paths.items()}
    assert {place: calls for place, calls in found.items() if calls - KNOWN.get(place, set())} == {}
    assert all(found[place] == calls for place, calls in KNOWN.items()), "no exception that is not needed"
    assert foreign_readers("import json\njson.loads(x)") == {"json.loads"}


def test_python_has_the_limit_on_digits_that_the_sentence_is_about() -> None:
    assert 0 < sys.get_int_max_str_digits() < 5000
