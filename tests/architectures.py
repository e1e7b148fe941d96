"""Tiny random models of the families that transformers has, and whether this package computes with them what they say.

The oracle is the plain forward of transformers on one unpadded row, which knows no cache, batch, padding or position
ids. ``python tests/architectures.py`` sweeps all families in two minutes and writes the page
``docs/reference/architectures.md``; ``make test`` takes a sample.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from logitfusion.distill.encoding import encode_text
from logitfusion.distill.teacher import read_teacher
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.adapter_kinds import IN_PLACE, REFUSED
from logitfusion.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LAYERS = 3

# Sizes, under every name that configs have for them: a config takes those that it knows.
SIZES = SPECIAL | {
    "vocab_size": len(TOKENIZER), "vocab_size_per_layer_input": len(TOKENIZER), "max_position_embeddings": 256,
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim_model": 32, "embedding_size": 32, "word_embed_proj_dim": 32,
    "lru_width": 32, "hidden_size_per_layer_input": 8,
    "intermediate_size": 64, "ffn_dim": 64, "dim_ff": 64, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64, "dff": 64,
    "feed_forward_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "num_layers": LAYERS, "decoder_layers": 2, "encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "decoder_attention_heads": 4, "encoder_attention_heads": 4,
    "attention_heads": 4, "num_key_value_heads": 2, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    "head_dim": 8, "dim_head": 8, "swa_head_dim": 8, "v_head_dim": 8, "kda_head_dim": 8, "rotary_dim": 4,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "index_head_dim": 8,
    "index_n_heads": 2, "index_topk": 64,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_topk": 2, "zero_expert_num": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "num_shared_experts": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "num_dense_layers": 1,
    "mamba_n_heads": 4, "mamba_d_state": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_n_groups": 1,
    "mamba_d_head": 16, "n_mamba_heads": 2, "mamba_dt_rank": 4, "ssm_state_size": 8, "state_size": 8, "n_groups": 1,
    "time_step_rank": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "sliding_window": 4, "attention_window_size": 4, "window_size": 4, "attention_chunk_size": 8, "floor_scale": 4,
    "local_attention": 8, "use_sliding_window": True, "max_window_layers": 1,
    "is_decoder": True,
}  # fmt: skip
HYBRID = ["linear_attention", "full_attention", "linear_attention"]
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_heads": 2,
    "image_size": 28, "patch_size": 14, "depth": 1,
}  # fmt: skip
# What a family needs besides; None leaves a size out.
OTHERS: dict[str, dict[str, object]] = {
    "bamba": {"mamba_d_head": "auto", "attn_layer_indices": [1]},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 256,
    },
    "falcon": {"head_dim": None},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
        "altup_num_inputs": 2, "laurel_rank": 4, "intermediate_size": [64] * LAYERS,
        "activation_sparsity_pattern": [0.0] * LAYERS,
    },
    "gpt_neo": {"num_layers": 2, "num_hidden_layers": None, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mamba2": {"num_heads": 8},
    "mpt": {"max_seq_len": 256, "n_heads": 4, "n_layers": LAYERS},
    "qwen3_5_moe_text": {"layer_types": HYBRID},
    "qwen3_5_text": {"layer_types": HYBRID},
    "qwen3_next": {"layer_types": HYBRID},
    "qwen4_exp_text": {"layer_types": HYBRID},
    "reformer": {
        "axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 8,
        "attention_head_size": 8,
    },
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "xlnet": {"n_layer": 2, "d_inner": 64},
    "xlstm": {"v_head_dim": None, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"]},
    "kimi_linear": {"layer_types": HYBRID},
    "zaya": {"num_experts_per_tok": 1},
    "bailing_hybrid": {"layer_types": HYBRID},
    "falcon_h1": {"mamba_d_ssm": 64},
}  # fmt: skip
LARGEST = 6e6  # parameters
SLOW = ("kimi_linear",)  # on a CPU


class NotBuiltError(Exception):
    """A family that these sizes do not make a tiny model of."""


def make_config(family: str) -> PreTrainedConfig:
    """A config of tiny sizes.

    Raises:
        NotBuiltError: the family takes other ones.
    """
    kind = CONFIG_MAPPING[family]
    parts = getattr(kind, "sub_configs", None) or {}
    if "text_config" in parts:
        text = parts["text_config"]
        settings = SPECIAL | {"text_config": _sizes_for(text, getattr(text, "model_type", ""))}
        settings |= {"vision_config": VISION} if "vision_config" in parts else {}
    else:
        settings = _sizes_for(kind, family)
    while True:
        try:
            return AutoConfig.for_model(family, **settings)
        except NotImplementedError as error:  # a size that this family derives from others
            named = re.search(r"setting of `(\w+)`", str(error))
            name = named.group(1) if named else "max_position_embeddings"
            if name not in settings:
                raise NotBuiltError(_short(error)) from error
            del settings[name]
        except Exception as error:
            raise NotBuiltError(_short(error)) from error


def _sizes_for(kind: type[PreTrainedConfig], family: str) -> dict[str, object]:
    known = {*dir(kind), *getattr(kind, "__annotations__", {}), *(getattr(kind, "attribute_map", None) or {})}
    sizes = {name: value for name, value in SIZES.items() if name in known}
    if "qk_rope_head_dim" in known:  # multi-head latent attention has as many keys as queries
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    sizes |= OTHERS.get(family, {})
    return {name: value for name, value in sizes.items() if value is not None}


def build(family: str, seed: int) -> PreTrainedModel:
    """A model of random weights, fp32, large enough that greedy choices are clear.

    Raises:
        NotBuiltError: see ``make_config``; or it would be too large.
    """
    if family in SLOW:
        raise NotBuiltError("takes minutes")
    config = make_config(family)
    torch.manual_seed(seed)
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
        if size > LARGEST:
            raise NotBuiltError(f"{size / 1e6:.0f} M parameters at the sizes given")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except NotBuiltError:
        raise
    except Exception as error:
        raise NotBuiltError(_short(error)) from error
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                spread = 0.3 if parameter.ndim == 2 and min(parameter.shape) > 1 else 0.1
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    model.tie_weights()
    try:
        plain(model, [5, 6, 7, 8])
    except Exception as error:
        raise NotBuiltError(f"transformers' own forward fails: {_short(error)}") from error
    return model


@torch.no_grad()
def plain(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits ``[n, V]`` of one row."""
    return model(input_ids=torch.tensor([ids])).logits[0, :, : len(TOKENIZER)].float()


def plain_fusion(models: Sequence[PreTrainedModel], ids: Sequence[int]) -> torch.Tensor:
    """``large + expert - base`` of plain forwards, or the large model's alone."""
    large, *small = (plain(model, ids) for model in models)
    return large + small[1] - small[0] if small else large


def plain_greedy(models: Sequence[PreTrainedModel], prompt: str, tokens: int) -> list[int]:
    """A greedy continuation, every token from a forward over all before it."""
    ids = TOKENIZER.encode(prompt)
    start = len(ids)
    while len(ids) < start + tokens:
        ids.append(int(plain_fusion(models, ids)[-1].argmax()))
        if ids[-1] == TOKENIZER.eos_token_id:
            break
    return ids[start:]


PROMPTS = ("hello there", "abc", "2 + 2 = ")
PAIRS = (("hello", " yo there"), ("abc", "d"), ("hello", " x"), ("a longer context", "q"))
TOKENS = 6


def generates(models: Sequence[PreTrainedModel], **options: object) -> bool:
    """Whether a batch of unequal prompts is continued as each alone by plain forwards."""
    lm = fuse(models)
    found = lm.generate(PROMPTS, max_new_tokens=TOKENS, **options)
    return [one.token_ids for one in found] == [plain_greedy(models, prompt, TOKENS) for prompt in PROMPTS]


def scores(models: Sequence[PreTrainedModel]) -> bool:
    """Whether likelihoods of a batch are those of plain forwards."""
    lm = fuse(models)
    found = lm.score(*zip(*PAIRS, strict=True))
    plainly = [_plain_score(lm, models, *pair) for pair in PAIRS]
    # Random weights are large, and rounding grows with them; what is wrong is wrong by whole nats.
    return all(abs(score - right) < 1e-3 * max(1, abs(right)) for (score, _), right in zip(found, plainly, strict=True))


def _plain_score(lm: FusedLM, models: Sequence[PreTrainedModel], *pair: str) -> float:
    context, continuation = lm.encode_pair(*pair)
    read = (*context, *continuation)[:-1]
    log_probs = plain_fusion(models, read).log_softmax(-1)[len(context) - 1 :]
    return log_probs.gather(1, torch.tensor(continuation)[:, None]).sum().item()


def teaches(model: PreTrainedModel) -> bool:
    """Whether a teacher's predictions of a batch are those of plain forwards."""
    texts = [encode_text(TOKENIZER, *pair) for pair in PAIRS]
    for text, found in zip(texts, read_teacher(model, texts, k=4, batch_size=4), strict=True):
        log_probs = plain(model, text.ids).log_softmax(-1)[text.start - 1 : -1]
        own = log_probs.gather(1, torch.tensor(text.labels)[:, None])[:, 0]
        if not torch.allclose(found.label_log_probs, own, atol=1e-3):
            return False
    return True


def fuse(models: Sequence[PreTrainedModel]) -> FusedLM:
    """The large model alone, or steered by one expert at weight 1."""
    large, *small = models
    return (
        FusedLM(large, *(small[:1]), [*small[1:]], tokenizer=TOKENIZER, weights=1.0)
        if small
        else FusedLM(large, tokenizer=TOKENIZER)
    )


@dataclass(frozen=True)
class Verdict:
    """What came out of one use of a family: ``right``, ``refused: sentence``, or ``WRONG``."""

    use: str
    result: str


def judge(family: str) -> Iterator[Verdict]:
    """All uses of a family.

    Raises:
        NotBuiltError: there is no tiny model of it.
    """
    models = [build(family, seed) for seed in range(3)]
    uses: dict[str, Callable[[], bool]] = {
        "generate": lambda: generates(models[:1]),
        "fused": lambda: generates(models),
        "speculative": lambda: generates(models, speculative=True, draft_tokens=3),
        "score": lambda: scores(models),
        "teacher": lambda: teaches(models[0]),
    }
    for use, is_right in uses.items():
        try:
            yield Verdict(use, "right" if is_right() else "WRONG")
        except UserError as error:
            yield Verdict(use, f"refused: {error}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


# The page

USES = ("generate", "fused", "speculative", "score", "teacher")
HEAD = f"""# Architectures and adapters

Made by `make architectures` with transformers {transformers.__version__}: tiny random models of every family of causal
language models that transformers has, each use compared with plain forwards of unpadded rows. `generate` is of a model
alone, `fused`, `speculative` and `score` of one that an expert of the same family steers, `teacher` of a distillation's
cache. Families that may have sliding windows are built with short ones (without them, as Qwen2 and Qwen3 mostly are,
speculation works), encoders with `is_decoder: true` (without it they are refused).

| family | {" | ".join(USES)} |
| --- |{" --- |" * len(USES)}
"""


def write_page(path: Path, families: Sequence[str]) -> bool:
    """Sweep families into a table; whether nothing is wrong."""
    rows, sentences, left_out = [], dict[str, int](), []
    for number, family in enumerate(families, start=1):
        started = time.monotonic()
        try:
            found = {verdict.use: verdict.result for verdict in judge(family)}
        except NotBuiltError as error:
            left_out.append(f"* `{family}`: {error}")
            continue
        cells = [_cell(found[use], sentences) for use in USES]
        rows.append(f"| `{family}` | {' | '.join(cells)} |")
        print(f"{number} of {len(families)}: {family} {found} {time.monotonic() - started:.1f} s", flush=True)
    notes = [f"{number}. {sentence}" for sentence, number in sentences.items()]
    sections = ["\n".join(rows), "## Refusals", "\n".join(notes), "## Not tried", NOT_TRIED, "\n".join(left_out)]
    sections += ["## Adapters", ADAPTERS, "\n".join(_adapter_rows())]
    path.write_text(HEAD + "\n\n".join(sections) + "\n")
    return not any("WRONG" in row for row in rows)


NOT_TRIED = "Families of which these sizes make no tiny model, and what transformers says about it:"


ADAPTERS = f"""An expert may be an adapter of the base, as peft {peft.__version__} saves it. Plain LoRA experts share
one base in memory and are read in one pass with it; every other kind is a model of its own on a copy of the base, and
equals peft's own `PeftModel` (`tests/test_adapter_kinds.py`)."""


def _adapter_rows() -> list[str]:
    refused = {kind: f"refused: {reason}" for kind, reason in REFUSED.items()}
    found = dict.fromkeys(IN_PLACE, "right") | refused
    return ["| kind | |", "| --- | --- |", *(f"| `{kind}` | {found[kind]} |" for kind in sorted(found))]


def _cell(result: str, sentences: dict[str, int]) -> str:
    if not result.startswith("refused: "):
        return result
    sentence = re.sub(r"The (model|teacher) \(\w+\)", "The model", result.removeprefix("refused: "))
    sentence = re.sub(r"'[^']+' models", "these models", sentence)
    return f"refused ({sentences.setdefault(sentence, len(sentences) + 1)})"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    page = Path(__file__).parent.parent / "docs" / "reference" / "architectures.md"
    chosen = sys.argv[1:]
    if not write_page(Path(os.devnull) if chosen else page, chosen or FAMILIES):
        sys.exit("A family is wrong, see above.")
