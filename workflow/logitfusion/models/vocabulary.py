"""Fusion adds logits entry by entry: the models must share one vocabulary, and we say so by name if they don't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import AutoConfig, PreTrainedTokenizerBase

from logitfusion.errors import UserError, first_line
from logitfusion.models.load import load_tokenizer
from logitfusion.models.text import TextEncoder


class SharedTokenizer(NamedTuple):
    """The tokenizer of the first of several models, and how many entries all of them share."""

    tokenizer: PreTrainedTokenizerBase
    entries: int | None
    """Tokens from this number on are not those of all; None where all have the same."""


def load_shared_tokenizer(folders: Sequence[str | Path]) -> SharedTokenizer:
    """The one tokenizer of several model folders. Experts carry a copy of their base's file: equal files are read once.

    Only the numbers matter: texts are cut by the first one, however the others would cut them.

    Raises:
        UserError: two folders number their tokens differently.
    """
    distinct: dict[bytes, Path] = {}
    for folder in map(Path, folders):
        file = folder / "tokenizer.json"
        distinct.setdefault(file.read_bytes() if file.is_file() else str(folder).encode(), folder)
    tokenizers = {str(folder): load_tokenizer(folder) for folder in distinct.values()}
    check_same_prefix(tokenizers)
    return SharedTokenizer(next(iter(tokenizers.values())), check_same_vocabulary(tokenizers))


def check_same_prefix(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    """Refuse models that read the same text differently: with begin-of-text, and without.

    Args:
        tokenizers: model name -> tokenizer.

    Raises:
        UserError: names two of them.
    """
    prefixes = {
        name: tokenizer.convert_ids_to_tokens(TextEncoder(tokenizer).prefix) for name, tokenizer in tokenizers.items()
    }
    (first, reference), *others = prefixes.items()
    for name, prefix in others:
        if prefix != reference:
            raise UserError(
                f"Models {first!r} and {name!r} can't be fused: their tokenizers put different tokens before a text"
                f" ({reference or 'none'} and {prefix or 'none'}); set add_bos_token alike in their"
                " tokenizer_config.json."
            )


def check_same_vocabulary(tokenizers: dict[str, PreTrainedTokenizerBase]) -> int | None:
    """Refuse a fusion whose models number their tokens differently.

    Tokens that only some have are ignored where they were added behind all others, as a padding token often is.

    Args:
        tokenizers: model name -> tokenizer; the first is the one the others are held against.

    Returns:
        the number of the first token that not all have; None where all have the same.

    Raises:
        UserError: names the two models and an example of a token that differs.
    """
    (first, reference), *others = tokenizers.items()
    expected = reference.get_vocab()
    ends = []
    for name, tokenizer in others:
        found = tokenizer.get_vocab()
        if found == expected:
            continue
        common = expected.keys() & found.keys()
        last = max((expected[token] for token in common), default=-1)
        single = {token: (expected | found)[token] for token in expected.keys() ^ found.keys()}
        added = reference.get_added_vocab() | tokenizer.get_added_vocab()
        wrong = [token for token in common if expected[token] != found[token]]
        wrong += [token for token, number in single.items() if number <= last or token not in added]
        if wrong or not common:
            example = min(wrong or single)
            raise UserError(
                f"Models {first!r} and {name!r} can't be fused: their vocabularies differ ({len(expected)} and"
                f" {len(found)} tokens; {example!r} is number {expected.get(example)} in {first!r} and"
                f" {found.get(example)} in {name!r}); use models of one family, or distil instead of fusing."
            )
        ends.append(min(single.values()))
    return min(ends, default=None)


def read_vocabulary(folder: str | Path) -> int:
    """Entries of a model's logits, from its config.json alone.

    Raises:
        UserError: that can't be read, or does not tell.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        entries = config.get_text_config(decoder=True).vocab_size
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"The config.json in {folder} does not tell the vocabulary's size ({first_line(error)})."
        ) from error
    if not isinstance(entries, int) or entries < 1:
        raise UserError(
            f"The config.json in {folder} has the vocab_size {entries!r}; take it from the model's own folder."
        )
    return entries
