"""Tokenizers made on the spot, nothing to download: of bytes, or of bytes and pairs of characters."""

from __future__ import annotations

import string
from itertools import product

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_PAIRED = string.ascii_lowercase + string.digits
_CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def tiny_tokenizer(*, pairs: bool = False) -> PreTrainedTokenizerFast:
    """Every byte of UTF-8 is a token, so every text has an encoding and the vocabulary has 259 entries.

    With ``pairs`` any two lower-case letters or digits are a token as well (1,555 entries), and there is a chat
    template: another tokenizer that cuts the same texts otherwise.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(product(_PAIRED, _PAIRED)) if pairs else []
    tokens = ["<pad>", "<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {name: number for number, name in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    if pairs:
        made.chat_template = _CHAT
    return made
