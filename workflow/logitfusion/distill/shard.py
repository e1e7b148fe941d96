"""A teacher's predictions on disk: the k likeliest tokens of every response position, a few bytes each.

A cache is a folder of shards. A shard is one safetensors file, which any reader of that format opens, with its manifest
in the file's metadata, so that the two cannot be separated:

============================ ============== ==================================================================
``log_probs``                fp16 [N, k]    natural log-probabilities over the whole vocabulary, descending
``ids``                      uint16 [N, k]  their tokens, the lower 16 bits
``ids_high``                 uint8 [N, k]   the upper bits, only of vocabularies of more than 65,536 tokens
``tail``                     fp32 [N]       probability of all other tokens, from before the rounding to fp16
``label_log_probs``          fp32 [N]       log-probability of the response's own token
``ends``                     uint32 [N]     the byte of the response where that token ends
``offsets``                  int64 [T + 1]  text t has the rows ``offsets[t]`` up to ``offsets[t + 1]``
``digests``                  uint8 [T, 8]   of prompt and response (``EncodedText.digest``), whatever the tokens
============================ ============== ==================================================================

That is 4k + 12 bytes a token, or 5k + 12 for large vocabularies, and 16 bytes a text.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from logitfusion.artefact import DIGEST, UNSEALED, check_seal, seal
from logitfusion.config.errors import explain
from logitfusion.config.section import Count, Measured, Section
from logitfusion.distill.encoding import spell_text
from logitfusion.distill.texts import UNKNOWN_TEXT
from logitfusion.errors import UserError
from logitfusion.files import whole
from logitfusion.formats.json import parse_json
from logitfusion.models.examples import Text

# Version 1 had no digests of texts; in version 2 the digest of the file was part of the manifest.
VERSION = 3
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
    "dtype",
    "shards",
)
# Of one shard: its number from 1 on, and its first text among all.
PLACE = ("shard", "first_text")

_LARGEST_VOCABULARY = 2**24
_MEND = "delete it and make it anew"
_NAMES = {"<f2": "F16", "<u2": "U16", "|u1": "U8", "<f4": "F32", "<u4": "U32", "<i8": "I64"}


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
    dtype: str
    shards: Count
    shard: Count
    first_text: Measured
    texts: Measured
    tokens: Measured
    bytes_per_token: Count


@dataclass(frozen=True, eq=False)
class TeacherText:
    """What a teacher makes of the n tokens of one response.

    Attributes:
        log_probs: ``[n, k]`` fp32, natural log-probabilities over the whole vocabulary, descending.
        ids: ``[n, k]`` int64, the tokens that have them.
        tail: ``[n]`` fp32, the probability of all tokens that are not among ``ids``.
        label_log_probs: ``[n]`` fp32, of the response's own tokens.
        ends: ``[n]`` int64, the bytes of the response where its tokens end (``EncodedText.ends``).
        digest: 8 bytes, by which the text is known (``EncodedText.digest``).
    """

    log_probs: Tensor
    ids: Tensor
    tail: Tensor
    label_log_probs: Tensor
    ends: Tensor
    digest: bytes = UNKNOWN_TEXT

    def __len__(self) -> int:
        return len(self.ends)


def no_tokens(k: int, digest: bytes = UNKNOWN_TEXT) -> TeacherText:
    """What a teacher makes of a response without tokens."""
    numbers, ids = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    return TeacherText(numbers.reshape(0, k), ids.reshape(0, k), numbers, numbers, ids, digest)


def hash_texts(texts: Iterable[Text]) -> str:
    """The manifest's ``data_hash``: a SHA-256 over prompts and responses, or chats, in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(spell_text(text).encode() + b"\n")
    return digest.hexdigest()


def shard_path(folder: str | Path, shard: int, shards: int) -> Path:
    """The file of a shard, which are numbered from 1 on."""
    return Path(folder) / f"teacher-{shard:05d}-of-{shards:05d}.safetensors"


def row_bytes(k: int, vocabulary: int) -> int:
    """Bytes that a token takes."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in _columns(k, vocabulary).values())


def _columns(k: int, vocabulary: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of what each tensor holds of a token; the widest types come first, so that all are aligned."""
    columns = {"label_log_probs": ("<f4", ()), "tail": ("<f4", ()), "ends": ("<u4", ())}
    columns |= {"log_probs": ("<f2", (k,)), "ids": ("<u2", (k,))}
    if vocabulary > 2**16:
        columns["ids_high"] = ("|u1", (k,))
    return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in columns.items()}


def _shapes(manifest: dict[str, Any]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor of a shard."""
    columns = _columns(manifest["k"], manifest["vocabulary"])
    return {
        "offsets": (np.dtype("<i8"), (manifest["texts"] + 1,)),
        **{name: (dtype, (manifest["tokens"], *shape)) for name, (dtype, shape) in columns.items()},
        "digests": (np.dtype("|u1"), (manifest["texts"], len(UNKNOWN_TEXT))),  # last: others stay aligned
    }


# Writing


def write_shard(path: str | Path, texts: Sequence[TeacherText], manifest: dict[str, Any]) -> dict[str, Any]:
    """Write a shard, whole or not at all. Texts are iterated twice, with one in memory at a time.

    Args:
        path: the file, see ``shard_path``.
        texts: in their order; a ``TeacherCache`` is fine.
        manifest: the values of ``SETTINGS`` and ``PLACE``; what can be counted is added.

    Returns:
        The whole manifest.

    Raises:
        ValueError: a manifest or text that does not fit.
        UserError: the disk is full or can't be written.
    """
    if manifest.keys() != {*SETTINGS, *PLACE}:
        raise ValueError(f"a manifest has exactly {', '.join((*SETTINGS, *PLACE))}, not {', '.join(manifest)}")
    k, vocabulary = manifest["k"], manifest["vocabulary"]
    if not 1 <= k <= vocabulary <= _LARGEST_VOCABULARY:
        raise ValueError(f"1 <= k <= vocabulary <= {_LARGEST_VOCABULARY} is needed, not {k} and {vocabulary}")
    offsets = np.array([0, *accumulate(len(text) for text in texts)], dtype="<i8")
    counted = {"texts": len(offsets) - 1, "tokens": int(offsets[-1]), "bytes_per_token": row_bytes(k, vocabulary)}
    manifest = {"version": VERSION, **manifest, **counted}
    header, places = _lay_out(manifest)
    digests: list[bytes] = []
    with whole(path) as temporary, temporary.open("w+b") as file:
        file.write(header)
        file.write(offsets.tobytes())
        for text, first in zip(texts, offsets[:-1], strict=True):
            digests.append(text.digest)
            for name, rows in _pack(text, k, vocabulary).items():
                file.seek(places[name] + int(first) * rows[:1].nbytes)
                file.write(rows.tobytes())
        file.seek(places["digests"])
        file.write(b"".join(digests))
        file.flush()
        seal(temporary)
    return manifest


def _lay_out(manifest: dict[str, Any]) -> tuple[bytes, dict[str, int]]:
    """The file's head, and where the tensors begin that follow."""
    tensors, places, end = {}, {}, 0
    for name, (dtype, shape) in _shapes(manifest).items():
        places[name], end = end, end + dtype.itemsize * math.prod(shape)
        tensors[name] = {"dtype": _NAMES[dtype.str], "shape": shape, "data_offsets": [places[name], end]}
    metadata = {DIGEST: UNSEALED, "manifest": json.dumps(manifest, sort_keys=True)}
    head = json.dumps({"__metadata__": metadata, **tensors}).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head, {name: 8 + len(head) + place for name, place in places.items()}


def _pack(text: TeacherText, k: int, vocabulary: int) -> dict[str, np.ndarray]:
    """The tensors of a text as they are in the file."""
    n = len(text)
    shapes = [tuple(part.shape) for part in (text.log_probs, text.ids, text.tail, text.label_log_probs, text.ends)]
    if len(text.digest) != len(UNKNOWN_TEXT):
        raise ValueError(f"the digest of a text has {len(UNKNOWN_TEXT)} bytes, not {len(text.digest)}")
    if shapes != [(n, k), (n, k), (n,), (n,), (n,)]:
        raise ValueError(f"a text of {n} tokens and k = {k} has the shapes {shapes}")
    if (text.log_probs.diff(dim=1) > 0).any():
        raise ValueError("log-probabilities of a position are not descending")
    if n and (int(text.ids.min()) < 0 or int(text.ids.max()) >= vocabulary):
        raise ValueError(f"ids are not within a vocabulary of {vocabulary}")
    if text.log_probs.isnan().any() or text.tail.isnan().any() or text.label_log_probs.isnan().any():
        raise ValueError("a text has probabilities that are not a number")
    if n and (int(text.ends.min()) < 0 or int(text.ends.max()) >= 2**32):
        raise ValueError("ends are bytes of a response, from 0 to 2^32 - 1")
    ids = text.ids.cpu().numpy()
    parts = {
        "log_probs": text.log_probs.cpu().half().numpy(),
        "ids": ids & 0xFFFF,
        "ids_high": ids >> 16,
        "tail": text.tail.cpu().numpy(),
        "label_log_probs": text.label_log_probs.cpu().numpy(),
        "ends": text.ends.cpu().numpy(),
    }
    return {name: parts[name].astype(dtype) for name, (dtype, _) in _columns(k, vocabulary).items()}


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
            if self.offsets[0] or self.offsets[-1] != self.manifest["tokens"] or (np.diff(self.offsets) < 0).any():
                raise ValueError("its offsets are not those of its texts")
            self._columns = _columns(self.manifest["k"], self.manifest["vocabulary"])
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
        parts = {name: torch.from_numpy(rows) for name, rows in self._read(number, *self._columns).items()}
        ids = parts["ids"].long()
        if "ids_high" in parts:
            ids += parts["ids_high"].long() << 16
        return TeacherText(
            log_probs=parts["log_probs"].float(),
            ids=ids,
            tail=parts["tail"],
            label_log_probs=parts["label_log_probs"],
            ends=parts["ends"].long(),
            digest=self.digests[number],
        )

    def read_ends(self, number: int) -> NDArray[np.uint32]:
        """The ``ends`` of a text alone, ``[n]``; see ``read``."""
        return self._read(number, "ends")["ends"]

    def _read(self, number: int, *names: str) -> dict[str, NDArray[Any]]:
        """Some of a text's columns."""
        first, last = self.offsets[number : number + 2].tolist()
        found = {}
        try:
            with self.path.open("rb", buffering=0) as file:
                if _identify(file) != self._same:
                    raise UserError(f"{self.path} has been replaced by another file while it was read; start again.")
                for name in names:
                    dtype, shape = self._columns[name]
                    rows = np.empty((last - first, *shape), dtype)
                    file.seek(self._places[name] + first * dtype.itemsize * math.prod(shape))
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
    expected = {name: (_NAMES[dtype.str], list(shape)) for name, (dtype, shape) in _shapes(manifest).items()}
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()} != expected:
        raise ValueError("its tensors are not those of its manifest")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a shard, whose bytes are not compared with their digest.

    Raises:
        UserError: the file is no whole shard.
    """
    return Shard(path, verify=False).manifest
