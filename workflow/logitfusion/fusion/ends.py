"""Where a text ends: tokens that end it, and stop strings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from logitfusion.models.architecture import text_config
from logitfusion.models.checkpoint import is_adapter
from logitfusion.models.identity import has_tokenizer
from logitfusion.models.load import load_tokenizer

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_NO_TEXT = b"\xff"  # in no UTF-8 text, so no stop string spans an entry that the tokenizer has no token for


def end_tokens(models: Iterable[PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a text for one of the models.

    Chat models may name their ends in the generation config alone, multimodal ones in the config of their text. A
    generation config of its own is the last word, as in transformers: the model's config may hold its class's default.
    """
    found = [tokenizer.eos_token_id]
    for model in models:
        own = getattr(model, "generation_config", None)
        found.append(getattr(own, "eos_token_id", None))
        if found[-1] is None or own._from_model_config:
            found += [getattr(config, "eos_token_id", None) for config in (model.config, text_config(model))]
    return _flatten(found)


def folder_ends(folders: Iterable[str | Path]) -> set[int]:
    """Every token that ends a text by the tokenizers and generation configs of model and adapter folders.

    Models of one vocabulary may differ in this: chat models often end a turn by another token than their base a text.
    """
    distinct: dict[tuple[bytes, ...], Path] = {}
    found = []
    for folder in map(Path, folders):
        files = (folder / "tokenizer_config.json", folder / "special_tokens_map.json")  # which name the end of a text
        # Adapters may come with such files and no tokenizer.
        if any(file.is_file() for file in files) and (has_tokenizer(folder) or not is_adapter(folder)):
            distinct.setdefault(tuple(file.read_bytes() if file.is_file() else b"" for file in files), folder)
        with suppress(OSError, AttributeError, TypeError, ValueError):  # not there, or no config, which loading says
            found.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    return _flatten([*found, *(load_tokenizer(folder).eos_token_id for folder in distinct.values())])


def _flatten(found: Iterable[Any]) -> set[int]:
    several = [tokens if isinstance(tokens, Iterable) else [tokens] for tokens in found]
    return {token for tokens in several for token in tokens if isinstance(token, int)}


class TokenBytes:
    """What each token writes within a text, special tokens included: a part of a character, or many."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        state = b"" if decoder is None else decoder.__getstate__()
        self.falls_back = b'"ByteFallback"' in state  # "<0xE2>" is a byte
        self.alphabet = {}  # of byte-level tokenizers: each letter is a byte
        if b'"ByteLevel"' in state and not self.falls_back:
            self.alphabet = {letter: byte for byte, letter in bytes_to_unicode().items()}
        # Decoders drop the space before a text's first word, so tokens are read after another one.
        first = tokenizer.encode("a", add_special_tokens=False)
        self.before: list[str] = tokenizer.convert_ids_to_tokens(first)
        self.known: dict[int, bytes] = {}

    def __getitem__(self, token: int) -> bytes:
        if token not in self.known:
            self.known[token] = self._read(token)
        return self.known[token]

    def hides(self, token: int) -> bool:
        """Whether texts without special tokens lack this one."""
        return not self.tokenizer.decode([token], skip_special_tokens=True)

    def count_unsettled(self, ids: Sequence[int]) -> int:
        """How many of the last bytes are tokens of one byte: all of such a run is unreadable if a later one is."""
        count = 0
        for token in reversed(ids if self.falls_back else ()):
            if not self._is_byte(token) and not self.hides(token):
                break
            count += len(self[token])
        return count

    def _is_byte(self, token: int) -> bool:
        return _BYTE.fullmatch(self._name(token) or "") is not None

    def _name(self, token: int) -> str | None:
        try:
            return self.tokenizer.convert_ids_to_tokens(token)
        except (IndexError, KeyError):  # how tokenizers that are written in Python say it
            return None

    def _read(self, token: int) -> bytes:
        name = self._name(token)
        if name is None:
            return _NO_TEXT
        if self.alphabet and all(letter in self.alphabet for letter in name):
            return bytes(self.alphabet[letter] for letter in name)
        if self.falls_back and self._is_byte(token):
            return bytes.fromhex(name[3:5])
        text = self.tokenizer.convert_tokens_to_string([*self.before, name])
        return text.removeprefix(self.tokenizer.convert_tokens_to_string(self.before)).encode()


class StopStrings:
    """Finds stop strings in a text that grows by tokens, by the rule of transformers' ``stop_strings``.

    They are looked for in the bytes that the tokens write, so they may be special tokens, begin and end within tokens,
    and have characters of several tokens. What the prompt says is no part of them.

    Args:
        words: the stop strings.
        tokenizer: of the text.
    """

    def __init__(self, words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.words = [word.encode() for word in words]
        self.longest = max(map(len, self.words), default=0)
        self.tokenizer = tokenizer
        self.pieces = TokenBytes(tokenizer)

    def find(self, ids: Sequence[int]) -> int:
        """How many of the last bytes a stop string begins; 0 if the newest token completes none."""
        if not self.words:
            return 0
        tail = self._tail(ids, self.longest - 1 + len(self.pieces[ids[-1]]))
        starts = [tail.find(word) for word in self.words if word in tail]
        return len(tail) - min(starts) if starts else 0

    def held_back(self, ids: Sequence[int]) -> int:
        """How many of the last bytes may yet change, or turn out to begin a stop string."""
        tail = self._tail(ids, self.longest - 1)
        beginnings = (word[:length] for word in self.words for length in range(1, len(word)))
        begun = max((len(beginning) for beginning in beginnings if tail.endswith(beginning)), default=0)
        return max(begun, self.pieces.count_unsettled(ids))

    def text_before(self, ids: Sequence[int], count: int) -> str:
        """The text without its last ``count`` bytes and without special tokens."""
        place, kept = len(ids), -count
        while kept < 0:
            place -= 1
            kept += len(self.pieces[ids[place]])
        if not kept or self.pieces.hides(ids[place]):
            return self.tokenizer.decode(ids[:place], skip_special_tokens=True)
        text = self.tokenizer.decode(ids[: place + 1], skip_special_tokens=True)
        cut = self.pieces[ids[place]][kept:].decode(errors="replace")
        return text[: len(text) - len(cut)]

    def _tail(self, ids: Sequence[int], least: int) -> bytes:
        """What the last tokens write, at least so many bytes if there are."""
        parts: list[bytes] = []
        for token in reversed(ids):
            if least <= 0:
                break
            parts.append(self.pieces[token])
            least -= len(parts[-1])
        return b"".join(reversed(parts))


def ending_tokens(
    ends: Collection[int], stop: Sequence[str], tokenizer: PreTrainedTokenizerBase, vocabulary: int
) -> list[int]:
    """Every token that ends a continuation: those of ``ends``, then those whose text begins with a stop string."""
    pieces, words = TokenBytes(tokenizer), tuple(word.encode() for word in stop)
    stopping = {token for token in range(vocabulary) if words and pieces[token].startswith(words)}
    return [*sorted(ends), *sorted(stopping - set(ends))]
