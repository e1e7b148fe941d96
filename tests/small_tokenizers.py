"""Small tokenizers of every kind that models come with, made on the spot."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = [
    "the cat sat on the mat, and the other cat sat there too",
    "hello world hello there  two spaces\n\nnew lines\tand tabs",
    "über größe café naïve 123 1234",
    "你好世界 你好 👍🏽 👍 😀 שלום",
    "<|im_start|>user\n<|im_end|> </s> <s>",
] * 5


def byte_level(
    *, normalizer: normalizers.Normalizer | None = None, prefix_space: bool = False, trim_offsets: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE as of GPT-2, without a BOS before texts, with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer, vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        additional_special_tokens=special[1:],
        chat_template=CHATML,
    )


def sentencepiece(*, prefix: str = "never") -> PreTrainedTokenizerFast:
    """BPE over characters as of Llama 2 and Gemma: U+2581 for a space, rare characters as bytes, BOS before texts.

    ``prefix``: whether a space is put before each text: ``"always"``, ``"first"``, ``"never"``.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    _train(trained, trainers.BpeTrainer, vocab_size=200, limit_alphabet=40)
    learned = json.loads(trained.to_str())["model"]
    fixed = ["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [*fixed, *learned["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(words)},
            merges=[tuple(merge) for merge in learned["merges"]],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def llama_2() -> PreTrainedTokenizerFast:
    """As of Llama 2's old files: the normalizer puts a space before every piece of text between special tokens."""
    parts = json.loads(sentencepiece().backend_tokenizer.to_str())
    parts["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def t5() -> PreTrainedTokenizerFast:
    """Unigram pieces of words, as of T5's old files: all white space is one space, and </s> comes after texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    _train(tokenizer, trainers.UnigramTrainer, vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def stripping(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer that also strips every text."""
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [*([backend.normalizer] if backend.normalizer else []), normalizers.Strip()]
    )
    return tokenizer


def framed(tokenizer: PreTrainedTokenizerFast, before: list[str], after: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that puts these tokens before and after every text."""
    tokenizer.add_tokens(
        [token for token in (*before, *after) if token not in tokenizer.get_vocab()], special_tokens=True
    )
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys((*before, *after))]
    template = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


def wordpiece() -> PreTrainedTokenizerFast:
    """Lower-cased and NFKC-normalised pieces of words, as of BERT; what it never saw is unknown."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _train(tokenizer, trainers.WordPieceTrainer, vocab_size=200, special_tokens=["[UNK]", "[SEP]"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", unk_token="[UNK]")


def unigram() -> PreTrainedTokenizerFast:
    """Unigram pieces of NFKC-normalised text with a space before each word, as of T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    _train(tokenizer, trainers.UnigramTrainer, vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    """Whole words and signs of a short list; all others are unknown."""
    words = ["<unk>", "</s>", "the", "cat", "sat", "hello", ",", "."]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def _train(tokenizer: Tokenizer, trainer: type, **options: object) -> None:
    tokenizer.train_from_iterator(CORPUS, trainer(show_progress=False, **options))
