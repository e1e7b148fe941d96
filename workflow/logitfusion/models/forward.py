"""The plain forward of one text, and checks of other ways of reading against it, made once before long work begins.

Architectures differ in too much (padding, positions, cached states) to be trusted by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfusion.errors import UserError, find_memory_error, first_line
from logitfusion.models.architecture import context_length, count_vocabulary, reset_rope, rope_limit, text_config
from logitfusion.models.device_maps import input_device

# Tokens of the texts that checks read.
_PROBE = 16
# Decoders that transformers runs without what they describe.
_OTHER_INPUT = {"whisper": "speech", "moshi": "speech", "musicgen_decoder": "sound", "trocr": "pictures"}
# Where what follows shows too little in some weights for one try, or some weights are left to chance (CPM-Ant).
_LOOKS_AHEAD = ("cpmant", "prophetnet")
# The same tokens in the same pass round alike in half precision too, and what XLNet sees ahead moves its logits by 0.1.
_HALF_CAUSAL = 0.02
_CAUSAL: WeakSet[PreTrainedModel] = WeakSet()


def plain_logits(model: PreTrainedModel, input_ids: Tensor, **others: Tensor) -> Tensor:
    """``[B, L] -> [B, L, V]``: of a forward that knows nothing of earlier ones.

    Raises:
        UserError: the model gives no logits of tokens.
    """
    reset_rope(model)
    logits = getattr(model(input_ids=input_ids, use_cache=False, **others), "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != input_ids.shape:
        raise UserError(f"{type(model).__name__} is not a causal language model: it has no logits for each token.")
    return logits


def probe(model: PreTrainedModel, texts: Iterable[tuple[int, ...] | list[int]]) -> list[int]:
    """The start of the longest of some texts, which the checks read; ``texts`` has one of two tokens at least."""
    return list(max(texts, key=len))[: int(min(_PROBE, max(2, rope_limit(model))))]


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout and gradients, and then as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def refuse_not_causal(model: PreTrainedModel, title: str = "The model", *, anew: bool = False) -> None:
    """Refuse a model whose predictions look at the tokens that they predict, or that reads something else than text.

    transformers loads BERT and its like as causal models too, and reads both sides unless ``is_decoder`` is set. A
    model is tried once, on two texts of eight tokens that differ in the last two.

    Args:
        title: the model, as the beginning of a sentence.
        anew: the model has changed since it was tried.

    Raises:
        TypeError: it is no model.
        UserError: names the architecture.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{title[:1].lower()}{title[1:]} is one of transformers, not a {type(model).__name__}")
    if hasattr(model, "get_base_model"):  # of peft, with adapters in its layers
        model = model.get_base_model()
    if model in _CAUSAL and not anew:
        return
    name, kind = f"{title} ({type(model).__name__})", text_config(model).model_type
    if other := _OTHER_INPUT.get(kind):
        raise UserError(f"{name} writes down {other}, not texts that go on; use a causal language model of text.")
    ids = torch.tensor([[*range(3, 11)], [*range(3, 9), 11, 12]], device=input_device(model)) % count_vocabulary(model)
    try:
        with evaluating(model):
            logits = plain_logits(model, ids)[:, :-2]
    except UserError:
        raise
    except Exception as error:  # whatever an architecture raises that lacks an input
        if find_memory_error(error) is not None:
            raise
        raise UserError(
            f"{name} can't read a plain text ({first_line(error)}); use a causal language model of text."
        ) from error
    if kind in _LOOKS_AHEAD or not agree(logits[1], logits[0], half=_HALF_CAUSAL):
        raise UserError(
            f"{name} is not a causal language model here: it reads a text in both directions, so it can't continue one"
            " (some encoders need is_decoder: true in their config.json)."
        )
    _CAUSAL.add(model)


def agree(found: Tensor, expected: Tensor, *, half: float = 0.1) -> bool:
    """Whether logits are the same but for rounding; those that are not numbers are for others to refuse.

    Args:
        found, expected: of one shape.
        half: the mean distance that is rounding in half precision, in mean deviations of the logits; a mixture's router
            may choose other experts by rounding alone.
    """
    tolerance = 1e-4 if torch.finfo(expected.dtype).bits >= 32 else half
    found, expected = found.detach().double(), expected.detach().double()
    distance = torch.where(found == expected, 0, found - expected).abs().mean()
    known = expected[expected.isfinite()]
    return not distance > tolerance * (known - known.mean()).abs().mean()


def check_texts(model: PreTrainedModel, texts: Iterable[Sequence[int]], name: str, option: str) -> Sequence[int]:
    """Refuse texts that a model can't read, before work begins: too long, or of tokens that it does not have.

    Args:
        model: that reads them.
        texts: token ids; read once.
        name: the model's, for the message.
        option: what to lower where a text is too long, for the message.

    Returns:
        the first of the longest texts; an empty one if there are none.

    Raises:
        UserError: names the longest text, its tokens and the limit; or a text with a token beyond the vocabulary.
    """
    limit, vocabulary, longest = context_length(model), count_vocabulary(model), (0, ())
    for number, ids in enumerate(texts, 1):
        longest = max(longest, (number, ids), key=lambda text: len(text[1]))
        if len(ids) and not 0 <= min(ids) <= max(ids) < vocabulary:
            wrong = next(token for token in ids if not 0 <= token < vocabulary)
            raise UserError(
                f"Text {number} has the token number {wrong}, and {name} has only {vocabulary} entries: its tokenizer"
                " is of another model, so use the one that the model was saved with."
            )
    if len(longest[1]) > limit:
        raise UserError(
            f"Text {longest[0]} has {len(longest[1])} tokens, and {name} reads at most {limit:.0f}; lower {option} to"
            f" {limit:.0f}."
        )
    return longest[1]
