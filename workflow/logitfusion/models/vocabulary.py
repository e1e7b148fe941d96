"""Fusion adds logits entry by entry: the models must share one vocabulary, and we say so by name if they don't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.models.load import load_tokenizer
from logitfusion.models.text import TextEncoder


def load_shared_tokenizer(folders: Sequence[str | Path]) -> PreTrainedTokenizerBase:
    """The one tokenizer of several model folders. Experts carry a copy of their base's file: equal files are read once.

    Raises:
        UserError: two folders number their tokens differently.
    """
    distinct: dict[bytes, Path] = {}
    for folder in map(Path, folders):
        file = folder / "tokenizer.json"
        distinct.setdefault(file.read_bytes() if file.is_file() else str(folder).encode(), folder)
    tokenizers = {str(folder): load_tokenizer(folder) for folder in distinct.values()}
    check_same_vocabulary(tokenizers)
    _check_same_prefix(tokenizers)
    return next(iter(tokenizers.values()))


def _check_same_prefix(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    """Refuse models that read the same text differently: with begin-of-text, and without."""
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


def check_same_vocabulary(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    """Refuse a fusion whose models number their tokens differently.

    Args:
        tokenizers: model name -> tokenizer; the first is the one the others are held against.

    Raises:
        UserError: names the two models and an example of a token that differs.
    """
    (first, reference), *others = tokenizers.items()
    expected = reference.get_vocab()
    for name, tokenizer in others:
        found = tokenizer.get_vocab()
        if found == expected:
            continue
        example = next(token for token in expected.keys() | found.keys() if expected.get(token) != found.get(token))
        raise UserError(
            f"Models {first!r} and {name!r} can't be fused: their vocabularies differ ({len(expected)} and"
            f" {len(found)} tokens; {example!r} is number {expected.get(example)} in {first!r} and"
            f" {found.get(example)} in {name!r}); use models of one family, or distil instead of fusing."
        )
