"""Tokenizers of the kinds that the named models have, trained on the stand-in's own rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from standin.data_sets import DATA_SETS

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>")
PHI_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|dummy_85|>")
MISTRAL_SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<pad>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_READ = ("openai/gsm8k", "truthfulqa/truthful_qa", "abisee/cnn_dailymail", "AI-MO/NuminaMath-1.5", "KodCode/KodCode-V1")


@cache
def corpus() -> tuple[str, ...]:
    """Rows as text."""
    subsets = [splits for id in _READ for splits in DATA_SETS[id]().values()]
    rows = [row for splits in subsets for split in splits.values() for row in split.select(range(min(len(split), 60)))]
    return tuple(json.dumps(row).replace("\\n", "\n") for row in rows)


@cache
def llama() -> Tokenizer:
    """Llama-2's: BPE of SentencePiece with bytes to fall back on, a space in front, ``<s>`` before each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.normalizer = spaces
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*|[^▁]+"), "isolated")  # for training alone
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # bytes are plain entries
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@cache
def qwen() -> Tokenizer:
    """Qwen's: BPE of bytes, special tokens behind its entries, nothing before a text."""
    return _byte_level(900, QWEN_SPECIAL, corpus())


@cache
def phi() -> Tokenizer:
    """Phi-4's: as Qwen's, with other entries and special tokens."""
    return _byte_level(800, PHI_SPECIAL, corpus()[::2])


@cache
def mistral() -> Tokenizer:
    """Mistral-Small's: special tokens are the first entries, and ``<s>`` comes before each text."""
    tokenizer = _byte_level(1000, MISTRAL_SPECIAL, corpus()[1::2], first=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _byte_level(size: int, special: Sequence[str], texts: Sequence[str], *, first: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*special] if first else [], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
