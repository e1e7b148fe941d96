"""A teacher's predictions on disk: the k likeliest tokens of every response position, a few bytes each.

A cache is a folder of shards. A shard is one safetensors file, which any reader of that format opens, with its manifest
in the file's metadata, so that the two cannot be separated:

==================== ================= =================================================================================
``offsets``          int64 [T + 1]     text t has the rows ``offsets[t]`` up to ``offsets[t + 1]``
``label_log_probs``  fp32 [N]          log-probability of the response's own token; fp16 where the rounding is coarse
``tail``             fp32 [N]          probability of all tokens that are not kept
``steps``            bf16 [N]          what a level is in log-probability (``rounding``)
``spans``            uint8 [N]         bytes of the response up to the end of that token; wider where one needs it
``codes``            uint8 [N, bytes]  the k likeliest tokens as a set, each with its level (``sets``)
``exact_rows``       int64 [E]         rows that would lose too much by rounding (``packed``),
``exact_ids``        uint32 [E, k]     their tokens, the likeliest first, and
``exact_log_probs``  fp32 [E, k]       log-probabilities over the whole vocabulary
``digests``          uint8 [T, 8]      of prompt and response (``EncodedText.digest``), whatever the tokens
==================== ================= =================================================================================

At k = 50 that is 155 bytes a token for 49,152 tokens and 169 for 262,144 (121 and 136 coarse), 8k + 8 more for one that
is kept exactly, and 16 bytes a text.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from logitfusion.artefact import DIGEST, UNSEALED, check_seal, seal
from logitfusion.config.distill import Rounding
from logitfusion.config.errors import explain
from logitfusion.config.section import Count, Measured, Section
from logitfusion.distill.encoding import spell_text
from logitfusion.distill.packed import EXACT, FORMS, STORED, PackedText, RowCode, exact_columns, no_exact_rows
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.distill.texts import UNKNOWN_TEXT
from logitfusion.errors import UserError
from logitfusion.files import whole
from logitfusion.formats.json import parse_json
from logitfusion.models.examples import Text

# Version 1 had no digests of texts; in version 2 the digest of the file was part of the manifest; in version 3 ids were
# of 16 or 24 bits, and log-probabilities fp16.
VERSION = 4
# Of all shards of a cache alike. ``data_hash`` covers the prompts and responses of all of them.
SETTINGS = (
    "model_hash",
    "tokenizer_hash",
    "vocabulary_hash",
    "template",
    "data_hash",
    "max_tokens",
    "k",
    "vocabulary",
    "rounding",
    "dtype",
    "shards",
)
# Of one shard: its number from 1 on, and its first text among all.
PLACE = ("shard", "first_text")

_LARGEST_VOCABULARY = 2**24
_MEND = "delete it and make it anew"


class Manifest(Section):
    """What a shard says of itself."""

    version: Count
    model_hash: str
    tokenizer_hash: str
    vocabulary_hash: str
    template: str
    data_hash: str
    max_tokens: Count | None
    k: Count
    vocabulary: Annotated[int, Field(ge=1, le=_LARGEST_VOCABULARY)]
    rounding: Rounding
    dtype: str
    shards: Count
    shard: Count
    first_text: Measured
    texts: Measured
    tokens: Measured
    longest: Measured
    exact: Measured
    bytes_per_token: Count


def hash_texts(texts: Iterable[Text]) -> str:
    """The manifest's ``data_hash``: a SHA-256 over prompts and responses, or chats, in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(spell_text(text).encode() + b"\n")
    return digest.hexdigest()


def shard_path(folder: str | Path, shard: int, shards: int) -> Path:
    """The file of a shard, which are numbered from 1 on."""
    return Path(folder) / f"teacher-{shard:05d}-of-{shards:05d}.safetensors"


def _code(manifest: dict[str, Any]) -> RowCode:
    return RowCode(manifest["k"], manifest["vocabulary"], manifest["rounding"])


def _tensors(manifest: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of a shard; the widest types come first, so that all are aligned."""
    columns = _code(manifest).columns(manifest["longest"])
    tensors = {
        "offsets": ("I64", (manifest["texts"] + 1,)),
        **{name: (kind, (manifest["tokens"], *shape)) for name, (kind, shape) in columns.items()},
        **{name: (kind, (manifest["exact"], *shape)) for name, (kind, shape) in exact_columns(manifest["k"]).items()},
        "digests": ("U8", (manifest["texts"], len(UNKNOWN_TEXT))),
    }
    return dict(sorted(tensors.items(), key=lambda entry: -np.dtype(STORED[entry[1][0]]).itemsize))


# Writing


def write_shard(path: str | Path, texts: Iterable[TeacherText], manifest: dict[str, Any]) -> dict[str, Any]:
    """Pack texts and write them as a shard, whole or not at all.

    Args:
        path: the file, see ``shard_path``.
        texts: in their order, read once; all are in memory when they are packed.
        manifest: the values of ``SETTINGS`` and ``PLACE``; what can be counted is added.

    Returns:
        The whole manifest.

    Raises:
        ValueError: a manifest or text that does not fit.
        UserError: the disk is full or can't be written.
    """
    _check_given(manifest)
    return write_packed(path, list(map(_code(manifest).pack, texts)), manifest)


def write_packed(path: str | Path, texts: Sequence[PackedText], manifest: dict[str, Any]) -> dict[str, Any]:
    """``write_shard`` of texts that are packed. They are iterated twice, with one in memory at a time."""
    _check_given(manifest)
    counted, offsets = _count(texts)
    bytes_per_token = _code(manifest).row_bytes(counted["longest"])
    manifest = {"version": VERSION, **manifest, **counted, "bytes_per_token": bytes_per_token}
    header, places = _lay_out(manifest)
    kinds = {name: kind for name, (kind, _) in _tensors(manifest).items()}
    digests: list[bytes] = []
    with whole(path) as temporary, temporary.open("w+b") as file:
        file.write(header)
        file.write(offsets.tobytes())
        for text, first in zip(texts, offsets[:-1], strict=True):
            digests.append(text.digest)
            exact = text.exact | {"exact_rows": text.exact["exact_rows"] + first}
            for name, rows in (text.columns | exact).items():
                data = rows.astype(STORED[kinds[name]]).tobytes()
                file.seek(places[name])
                file.write(data)
                places[name] += len(data)
        file.seek(places["digests"])
        file.write(b"".join(digests))
        file.flush()
        seal(temporary)
    return manifest


def _check_given(manifest: dict[str, Any]) -> None:
    if manifest.keys() != {*SETTINGS, *PLACE}:
        raise ValueError(f"a manifest has exactly {', '.join((*SETTINGS, *PLACE))}, not {', '.join(manifest)}")
    k, vocabulary = manifest["k"], manifest["vocabulary"]
    if not 1 <= k <= vocabulary <= _LARGEST_VOCABULARY:
        raise ValueError(f"1 <= k <= vocabulary <= {_LARGEST_VOCABULARY} is needed, not {k} and {vocabulary}")
    if manifest["rounding"] not in FORMS:
        raise ValueError(f"rounding is {' or '.join(FORMS)}, not {manifest['rounding']!r}")


def _count(texts: Iterable[PackedText]) -> tuple[dict[str, int], NDArray[np.int64]]:
    """What a manifest says of the texts, and the offsets."""
    ends, longest, exact = [0], 0, 0
    for text in texts:
        ends.append(ends[-1] + len(text))
        longest = max(longest, int(text.columns["spans"].max(initial=0)))
        exact += len(text.exact["exact_rows"])
    counted = {"texts": len(ends) - 1, "tokens": ends[-1], "longest": longest, "exact": exact}
    return counted, np.array(ends, dtype=STORED["I64"])


def _lay_out(manifest: dict[str, Any]) -> tuple[bytes, dict[str, int]]:
    """The file's head, and where the tensors begin that follow."""
    tensors, places, end = {}, {}, 0
    for name, (kind, shape) in _tensors(manifest).items():
        places[name], end = end, end + np.dtype(STORED[kind]).itemsize * math.prod(shape)
        tensors[name] = {"dtype": kind, "shape": shape, "data_offsets": [places[name], end]}
    metadata = {DIGEST: UNSEALED, "manifest": json.dumps(manifest, sort_keys=True)}
    head = json.dumps({"__metadata__": metadata, **tensors}).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head, {name: 8 + len(head) + place for name, place in places.items()}


# Reading


class Shard:
    """The texts of one file: where they are is in memory, what they are is read on demand.

    Nothing is mapped into memory, so that what has been read counts nowhere, and no file is open between two reads.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        """Open a shard; ``verify`` compares its bytes with their digest.

        Raises:
            UserError: the file is no whole shard.
        """
        self.path = path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise OSError("it is not a file")
            with safe_open(path, framework="np") as file:
                self.manifest = _parse_manifest(path, file.metadata() or {})
                if verify:
                    check_seal(path, _MEND)
                _check_shapes(file, self.manifest)
                self.offsets = file.get_tensor("offsets")
                self.digests = [row.tobytes() for row in file.get_tensor("digests")]
                self._exact = file.get_tensor("exact_rows")
            if self.offsets[0] or self.offsets[-1] != self.manifest["tokens"] or (np.diff(self.offsets) < 0).any():
                raise ValueError("its offsets are not those of its texts")
            self._code, self._tensors = _code(self.manifest), _tensors(self.manifest)
            self._places, self._same = _find_places(path)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; make the cache with logitfusion distill-cache.") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is not a whole shard of a teacher cache ({error}); {_MEND}.") from error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, number: int) -> TeacherText:
        """The text of this number, from 0 on.

        Raises:
            UserError: the file has changed, or can't be read any more.
        """
        try:
            return self._code.unpack(self.read_packed(number))
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.path} is damaged ({error}); {_MEND}.") from error

    def read_packed(self, number: int) -> PackedText:
        """The bytes of a text; see ``read``."""
        first, last = self.offsets[number : number + 2].tolist()
        columns = self._read(first, last, self._code.columns(0))
        columns["spans"] = columns["spans"].astype(np.uint32)
        start, stop = np.searchsorted(self._exact, [first, last]).tolist()
        exact = self._read(start, stop, EXACT) if start < stop else no_exact_rows(self._code.k)
        exact["exact_rows"] = exact["exact_rows"] - first
        return PackedText(columns, exact, self.digests[number])

    def read_ends(self, number: int) -> NDArray[np.int64]:
        """The ``ends`` of a text alone, ``[n]``; see ``read``."""
        return self._read(*self.offsets[number : number + 2].tolist(), ["spans"])["spans"].cumsum(dtype=np.int64)

    def _read(self, first: int, last: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Rows ``first`` to ``last - 1`` of some tensors."""
        found = {}
        try:
            with self.path.open("rb", buffering=0) as file:
                if _identify(file) != self._same:
                    raise UserError(f"{self.path} has been replaced by another file while it was read; start again.")
                for name in names:
                    kind, (_, *shape) = self._tensors[name]
                    rows = np.empty((last - first, *shape), STORED[kind])
                    file.seek(self._places[name] + first * rows.dtype.itemsize * math.prod(shape))
                    file.readinto(rows.reshape(-1).view(np.uint8))
                    found[name] = rows
        except OSError as error:
            raise UserError(f"{self.path} can't be read any more ({error.strerror}).") from error
        return found


def _find_places(path: Path) -> tuple[dict[str, int], tuple[int, int]]:
    """Where each tensor of a safetensors file begins; and which file that is."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        head = parse_json(file.read(size).decode(), str(path))
        same = _identify(file)
    return {name: 8 + size + part["data_offsets"][0] for name, part in head.items() if name != "__metadata__"}, same


def _identify(file: IO[bytes]) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size


def _parse_manifest(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if "manifest" not in metadata:
        raise UserError(f"{path} is not of a teacher cache (it has no manifest); keep it in another folder.")
    found = parse_json(metadata["manifest"], str(path))
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise UserError(
            f"{path} has the format version {version}, and this program reads version {VERSION}; make the cache anew."
        )
    try:
        return Manifest.model_validate(found).dump()
    except ValidationError as error:
        raise ValueError(explain(error, name=lambda key: f"its {key or 'manifest'}").rstrip(".")) from None


def _check_shapes(file: Any, manifest: dict[str, Any]) -> None:
    expected = {name: (kind, list(shape)) for name, (kind, shape) in _tensors(manifest).items()}
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()} != expected:
        raise ValueError("its tensors are not those of its manifest")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a shard, whose bytes are not compared with their digest.

    Raises:
        UserError: the file is no whole shard.
    """
    return Shard(path, verify=False).manifest
