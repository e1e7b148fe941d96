"""JSON, JSON lines, CSV and YAML as other programs, other systems and broken disks leave them.

Each oddity makes one of a whole text, and says what has to become of it: ``same`` (read as the whole one),
``refused``, or ``either`` of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

DEEP = 100_000


class Odd(NamedTuple):
    """A text that is odd, as bytes.

    Attributes:
        name: what is odd about it.
        fate: what has to become of it.
    """

    name: str
    data: bytes
    fate: Literal["same", "refused", "either"]


Make = Callable[[bytes], bytes]

# Of every format: how texts are encoded and end their lines.
_OF_TEXT: dict[str, tuple[Make, str]] = {
    "a byte order mark": (lambda data: b"\xef\xbb\xbf" + data, "same"),
    "lines of Windows": (lambda data: data.replace(b"\n", b"\r\n"), "same"),
    "a byte order mark and lines of Windows": (lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"), "same"),
    "an empty line at the end": (lambda data: data + b"\n", "same"),
    "no last line break": (lambda data: data.rstrip(b"\n"), "same"),
    "Latin-1": (lambda data: data.replace(b"red", b"r\xe9d"), "refused"),
    "a cut character": (lambda data: data + b"\xc3", "refused"),
    "a surrogate in UTF-8": (lambda data: data.replace(b"red", b"\xed\xa0\x80"), "refused"),
    "an overlong character": (lambda data: data.replace(b"red", b"\xc0\xaf"), "refused"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "refused"),
    "UTF-32": (lambda data: data.decode().encode("utf-32"), "refused"),
    "nothing": (lambda data: b"", "refused"),
    "white space": (lambda data: b" \n\t\n", "refused"),
    "only a byte order mark": (lambda data: b"\xef\xbb\xbf", "refused"),
    "bytes of zero": (lambda data: bytes(len(data)), "refused"),
    "a byte of zero": (lambda data: data.replace(b"red", b"r\0d"), "either"),
    "the half": (lambda data: data[: len(data) // 2], "either"),
}

# Of the object ``{"KEY": "red", ...}`` of one line, by its first key.
_OF_JSON: dict[str, tuple[Make, str]] = {
    "a half of a surrogate pair": (lambda data: data.replace(b"red", b"\\ud800"), "refused"),
    "the other half": (lambda data: data.replace(b"red", b"\\udc00\\ud800"), "refused"),
    "a half in a key": (lambda data: data.replace(b"{", b'{"\\ud800": 1, ', 1), "refused"),
    "a key twice": (lambda data: data.replace(b"{", b"{" + _first_key(data) + b': "green", ', 1), "refused"),
    "a key twice, spelt otherwise": (
        lambda data: data.replace(b"{", b"{" + _escaped(_first_key(data)) + b': "green", ', 1),
        "refused",
    ),
    "deep lists": (lambda data: data.replace(b'"red"', b"[" * DEEP + b"]" * DEEP, 1), "refused"),
    "deep objects": (lambda data: data.replace(b'"red"', b'{"a":' * DEEP + b"1" + b"}" * DEEP, 1), "refused"),
    "deep lists without end": (lambda data: b"[" * DEEP, "refused"),
    "a comma too many": (lambda data: data.replace(b"}", b",}", 1), "refused"),
    "a comment": (lambda data: data.replace(b"{", b"{ // why\n", 1), "refused"),
    "single quotes": (lambda data: data.replace(b'"', b"'"), "refused"),
    "a bare word": (lambda data: data.replace(b'"red"', b"red", 1), "refused"),
    "not a number": (lambda data: data.replace(b'"red"', b"NaN", 1), "refused"),
    "infinity": (lambda data: data.replace(b'"red"', b"-Infinity", 1), "refused"),
    "a number beyond all": (lambda data: data.replace(b'"red"', b"1e999", 1), "refused"),
    "a number of 5,000 digits": (lambda data: data.replace(b'"red"', b"9" * 5000, 1), "refused"),
    "a line break in a text": (lambda data: data.replace(b"red", b"r\nd", 1), "refused"),
    "a tab in a text": (lambda data: data.replace(b"red", b"r\td", 1), "refused"),
    "two values": (lambda data: data.replace(b"}", b"} {}", 1), "refused"),
    "a list": (lambda data: b"[1, 2]\n", "refused"),
    "a number": (lambda data: b"3\n", "refused"),
    "null": (lambda data: b"null\n", "refused"),
    "a null for a text": (lambda data: data.replace(b'"red"', b"null", 1), "refused"),
    "an object for a text": (lambda data: data.replace(b'"red"', b'{"a": 1}', 1), "either"),
    "a text of 1 MB": (lambda data: data.replace(b"red", b"r" * 2**20, 1), "either"),
    "escapes": (lambda data: data.replace(b"red", b"\\u0072\\u0065\\u0064", 1), "same"),
    "white space around": (lambda data: b"  " + data.replace(b": ", b" :\t"), "same"),
}


def _first_key(data: bytes) -> bytes:
    """The first key of the first object, with its quotes."""
    return b'"' + data.split(b'"', 2)[1] + b'"'


def _escaped(key: bytes) -> bytes:
    return b'"' + b"".join(b"\\u%04x" % byte for byte in key[1:-1]) + b'"'


# Of a table whose first column is ``path`` and second ``label``.
_OF_CSV: dict[str, tuple[Make, str]] = {
    "a column twice": (lambda data: data.replace(b"path,label", b"path,path", 1), "refused"),
    "a column more than names": (lambda data: data.replace(b",red", b",red,red", 1), "refused"),
    "a cell less": (lambda data: data.replace(b",red", b"", 1), "refused"),
    "a quote that does not close": (lambda data: data.replace(b",red", b',"red', 1), "refused"),
    "a quote within": (lambda data: data.replace(b",red", b',"red"x', 1), "refused"),
    "quotes": (lambda data: data.replace(b",red", b',"red"'), "same"),
    "semicolons": (lambda data: data.replace(b",", b";"), "same"),
    "tabs": (lambda data: data.replace(b",", b"\t"), "same"),
    "lines of an old Macintosh": (lambda data: data.replace(b"\n", b"\r"), "same"),
    "a cell of 1 MB": (lambda data: data.replace(b",red", b"," + b"r" * 2**20), "either"),
    "only the columns": (lambda data: data.split(b"\n")[0] + b"\n", "refused"),
    "no columns": (lambda data: data.split(b"\n", 1)[1], "refused"),
    "capitals": (lambda data: data.replace(b"path,label", b"Path, LABEL"), "same"),
    "a formula": (lambda data: data.replace(b",red", b",=1+1"), "either"),
}

# Of a mapping in block style whose first key is ``run`` and which has ``seed: 0``.
_OF_YAML: dict[str, tuple[Make, str]] = {
    "a key twice": (lambda data: data + b"seed: 1\n", "refused"),
    "a key twice, the same": (lambda data: data + b"seed: 0\n", "refused"),
    "a key twice, quoted": (lambda data: data + b'"seed": 1\n', "refused"),
    "a section twice": (lambda data: data + b"evaluate: {resamples: 300}\n", "refused"),
    "a key twice within": (lambda data: data + b"more: {a: 1, a: 2}\n", "refused"),
    "aliases that multiply": (lambda data: data + bomb(9, 9), "refused"),
    "aliases that multiply lists": (lambda data: data + bomb(9, 9, "list"), "refused"),
    "merges that multiply": (lambda data: data + bomb(9, 9, "merge"), "refused"),
    "an alias within itself": (lambda data: data + b"more: &a [*a]\n", "refused"),
    "an alias of nothing": (lambda data: data + b"more: *nothing\n", "refused"),
    "deep lists": (lambda data: data + b"more: " + b"[" * DEEP + b"]" * DEEP + b"\n", "refused"),
    "deep lists without end": (lambda data: data + b"more: " + b"[" * DEEP, "refused"),
    "deep mappings": (lambda data: data + b"more: " + b"{a: " * 5000 + b"}" * 5000 + b"\n", "refused"),
    "deep blocks": (lambda data: data + b"".join(b" " * level + b"a:\n" for level in range(2000)), "refused"),
    "deep questions": (lambda data: data + b"? " * DEEP, "refused"),
    "two documents": (lambda data: data + b"---\nseed: 1\n", "refused"),
    "a tab": (lambda data: data + b"report:\n\ttrace_examples: 1\n", "refused"),
    "an object of Python": (lambda data: data + b"more: !!python/object/apply:os.getcwd []\n", "refused"),
    "a tag of nobody": (lambda data: data + b"more: !mine 1\n", "refused"),
    "a list": (lambda data: b"- 1\n", "refused"),
    "a text": (lambda data: b"run\n", "refused"),
    "a key that is a list": (lambda data: data + b"? [a]\n: 1\n", "refused"),
    "a key that is a number": (lambda data: data + b"1: 1\n", "refused"),
    "a key that is null": (lambda data: data + b"~: 1\n", "refused"),
    "a half of a surrogate pair": (lambda data: data.replace(b"run: ", b'run: "\\ud800" # ', 1), "refused"),
    "a percent sign": (lambda data: b"%YAML 9.9\n---\n" + data, "either"),
    "a bracket": (lambda data: data + b"more: [\n", "refused"),
    "a comment": (lambda data: b"# why\n" + data, "same"),
    "a mark of the document": (lambda data: b"---\n" + data, "same"),
    "a number of 5,000 digits": (lambda data: data.replace(b"seed: 0", b"seed: " + b"9" * 5000, 1), "refused"),
    "a seed in base 60": (lambda data: data.replace(b"seed: 0", b"seed: " + b"9:" * 3000 + b"9", 1), "refused"),
    "a date without a day": (lambda data: data.replace(b"seed: 0", b"seed: 2001-13-45", 1), "refused"),
    "a time without an hour": (lambda data: data.replace(b"seed: 0", b"seed: 2001-01-01 99:99:99", 1), "refused"),
    "bytes that are none": (lambda data: data.replace(b"seed: 0", b"seed: !!binary '*'", 1), "refused"),
    "a number that is none": (lambda data: data.replace(b"seed: 0", b"seed: !!int x", 1), "refused"),
    "a boolean that is none": (lambda data: data.replace(b"seed: 0", b"seed: !!bool x", 1), "refused"),
    "an octal number": (lambda data: data.replace(b"seed: 0", b"seed: 0o9", 1), "refused"),
}  # fmt: skip


def bomb(levels: int, times: int, kind: Literal["mapping", "list", "merge"] = "mapping") -> bytes:
    """YAML of a few lines that is ``times ** levels`` values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels + 1):
        inner = [f"*a{level - 1}"] * times
        value = {
            "mapping": "{" + ", ".join(f"k{number}: {one}" for number, one in enumerate(inner)) + "}",
            "list": f"[{', '.join(inner)}]",
            "merge": f"{{<<: [{', '.join(inner)}], y{level}: 1}}",
        }[kind]
        lines.append(f"a{level}: &a{level} {value}")
    return "\n".join(lines).encode() + b"\n"


FORMATS = {"json": _OF_TEXT | _OF_JSON, "csv": _OF_TEXT | _OF_CSV, "yaml": _OF_TEXT | _OF_YAML, "text": _OF_TEXT}


def odd_texts(whole: bytes, form: Literal["json", "csv", "yaml", "text"]) -> Iterator[Odd]:
    """All oddities of a format; those that change nothing of this text are left out."""
    for name, (make, fate) in FORMATS[form].items():
        data = make(whole)
        if data != whole:
            yield Odd(name, data, fate)
