"""A teacher reads batches of texts as it would read each alone, and a killed run loses little of its cache."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rounded import spacing
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
    PreTrainedModel,
)

from logitfusion.distill import offline, teacher
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.offline import SOURCE, cache_teacher
from logitfusion.distill.shard import TeacherText, read_manifest
from logitfusion.distill.teacher import read_teacher
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.models.architecture import reset_rope
from logitfusion.models.split import SplitModel

VOCABULARY = 60
SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": 8,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
# What comes before and after the output matrix differs, and what padding could disturb.
MODELS = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 0.5, "sliding_window": 4},
    "gemma3_text": {"final_logit_softcapping": 0.5, "sliding_window": 4},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "mixtral": {"num_local_experts": 3, "output_router_logits": True, "experts_implementation": "eager"},
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {"word_embed_proj_dim": 8, "ffn_dim": 24},
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True, "pad_token_id": 1},
    "bloom": {},
    "xlm": {"causal": True, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "asm": False},
    "mamba": {"state_size": 4},
    "rwkv": {"attention_hidden_size": 16},
    "recurrent_gemma": {"lru_width": 16, "attention_window_size": 4, "num_hidden_layers": 3},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "xlstm": {"num_heads": 2, "num_blocks": 2, "chunk_size": 8},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "llama dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": 8},
}
# In a batch of 1 nothing is padded, in one of 16 all is.
BATCHES = [(name, size) for name in MODELS for size in (1, 3, 16) if size != 16 or name in ("llama", "phi3", "gpt2")]


def make_model(name: str = "llama", **others: Any) -> PreTrainedModel:
    """A tiny random model in float64, of an unlikely preference for some tokens."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name.split()[0], **SHARED | MODELS[name] | others))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def make_texts(*shapes: tuple[int, int], seed: int = 0) -> list[EncodedText]:
    """Texts of so many tokens, of which so many are the response's."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for length, own in shapes:
        ids = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
        texts.append(EncodedText(tuple(ids), length - own, tuple(range(2, 2 * own + 2, 2))))
    return texts


TEXTS = make_texts((9, 6), (5, 1), (21, 20), (4, 0), (2, 1), (13, 3), (9, 8), (5, 2))


@torch.no_grad()
def read_alone(model: PreTrainedModel, text: EncodedText) -> Tensor:
    """Log-probabilities ``[n, V]`` of the ordinary forward of one text, by definition."""
    reset_rope(model)
    scores = model(torch.tensor([text.ids]), use_cache=False).logits[0].double()
    rows = [scores[position - 1] for position in range(text.start, len(text.ids))]
    return torch.stack([row - row.exp().sum().log() for row in rows]) if rows else torch.zeros(0, VOCABULARY).double()


def assert_read(found: TeacherText, expected: Tensor, text: EncodedText, k: int) -> None:
    likeliest = expected.sort(dim=-1, descending=True).values[:, :k]
    torch.testing.assert_close(found.log_probs, likeliest.float())
    torch.testing.assert_close(found.log_probs, expected.gather(1, found.ids).float())
    assert all(len(set(ids)) == k for ids in found.ids.tolist())
    torch.testing.assert_close(found.tail, (1 - likeliest.exp().sum(-1)).float(), atol=1e-7, rtol=1e-5)
    labels = torch.tensor(text.ids[text.start :], dtype=torch.long)
    torch.testing.assert_close(found.label_log_probs, expected.gather(1, labels[:, None])[:, 0].float())
    assert found.ends.tolist() == list(text.ends)


@pytest.mark.parametrize(("name", "batch_size"), BATCHES)
def test_a_batch_is_read_as_each_text_alone(name: str, batch_size: int) -> None:
    model = make_model(name)
    found = list(read_teacher(model, TEXTS, k=4, batch_size=batch_size))
    for one, text in zip(found, TEXTS, strict=True):
        assert_read(one, read_alone(model, text), text, k=4)


def test_neither_order_nor_history_is_seen() -> None:
    """Dynamic rotary frequencies are kept from the longest text that was read."""
    model, fresh = make_model("llama dynamic"), make_model("llama dynamic")
    list(read_teacher(model, TEXTS, k=4, batch_size=3))
    order = sorted(TEXTS, key=lambda text: len(text.ids))
    for one, text in zip(read_teacher(model, order, k=4, batch_size=3), order, strict=True):
        if text.labels:
            fresh = make_model("llama dynamic")  # which reads nothing else
            assert_read(one, read_alone(fresh, text), text, k=4)


def test_a_model_of_text_and_images_is_read() -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = SHARED | {"final_logit_softcapping": 0.5, "sliding_window": 4}
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=59, boi_token_index=58
    )
    model = Gemma3ForConditionalGeneration(config).double().eval()
    texts = [replace(text, ids=tuple(one % 50 for one in text.ids)) for text in TEXTS]
    for one, text in zip(read_teacher(model, texts, k=4, batch_size=3), texts, strict=True):
        assert_read(one, read_alone(model, text), text, k=4)


class Biased(LlamaForCausalLM):
    """What its logits are depends on the position, behind the output matrix."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        output = super().forward(*arguments, **named)
        output.logits = output.logits * torch.arange(1, output.logits.shape[1] + 1)[None, :, None]
        return output


def test_what_can_not_be_taken_apart_is_read_plainly_and_alone() -> None:
    torch.manual_seed(3)
    model = Biased(AutoConfig.for_model("llama", **SHARED)).double().eval()
    assert SplitModel(model, list(TEXTS[0].ids)).body is None
    sizes: list[int] = []
    found = read_teacher(model, TEXTS, k=4, batch_size=3)
    model.model.register_forward_hook(lambda _, __, output: sizes.append(len(output[0])))
    found = list(found)
    assert set(sizes) == {1}
    for one, text in zip(found, TEXTS, strict=True):
        assert_read(one, read_alone(model, text), text, k=4)


class Neighbours(LlamaForCausalLM):
    """What a row's logits are depends on the other rows."""

    def forward(self, input_ids: Tensor, **named: Any) -> Any:
        embedded = self.model.embed_tokens(input_ids)
        named["inputs_embeds"] = embedded + embedded.mean(0)
        return super().forward(**named)


def test_a_model_that_sees_neighbours_reads_each_text_alone() -> None:
    torch.manual_seed(3)
    model = Neighbours(AutoConfig.for_model("llama", **SHARED)).double().eval()
    for one, text in zip(read_teacher(model, TEXTS, k=4, batch_size=3), TEXTS, strict=True):
        assert_read(one, read_alone(model, text), text, k=4)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_is_no_teacher(name: str) -> None:
    """It sees the tokens that it is asked for, which would come out as certain."""
    model = make_model(name, is_decoder=False)
    with pytest.raises(UserError, match=r"is not a causal language model here.*is_decoder: true"):
        read_teacher(model, TEXTS, k=4, batch_size=2)


@pytest.mark.parametrize(("name", "limit"), [("gpt2", 12), ("opt", 12), ("roberta", 10), ("llama", 12)])
def test_longer_texts_than_the_teacher_reads_are_refused_before_work(name: str, limit: int, tmp_path: Path) -> None:
    model = make_model(name, **{"max_position_embeddings": 12, "n_positions": 12} if name == "gpt2" else
                       {"max_position_embeddings": 12})  # fmt: skip
    words = rf"Text 3 has 21 tokens, and \w+ reads at most {limit}; lower max_tokens to {limit}\."
    with pytest.raises(UserError, match=words):
        read_teacher(model, TEXTS, k=4, batch_size=2)
    with pytest.raises(UserError, match=words):
        cache_teacher(model, TEXTS, tmp_path, only=[1], shards=4, **OPTIONS)
    assert not list(tmp_path.iterdir())
    for one, text in zip(read_teacher(model, TEXTS[:2], k=4, batch_size=2), TEXTS[:2], strict=True):
        assert_read(one, read_alone(model, text), text, k=4)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_logits_are_made_of_response_positions_a_few_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_model(), []
    expected = [read_alone(model, text) for text in TEXTS]
    monkeypatch.setattr(teacher, "_CHUNK", rows * VOCABULARY)
    monkeypatch.setattr(teacher, "_WINDOW", 1)
    found = read_teacher(model, TEXTS, k=4, batch_size=3)  # has tried the model on a few tokens
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.numel() // VOCABULARY))
    for one, text, scores in zip(found, TEXTS, expected, strict=True):
        assert_read(one, scores, text, k=4)
    assert sum(seen) == sum(len(text.labels) for text in TEXTS)
    assert max(seen) <= rows


def test_results_come_while_others_are_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "_WINDOW", 2)
    done: list[int] = []
    results = read_teacher(make_model(), TEXTS, k=4, batch_size=2, on_batch=done.append)
    assert done == []
    next(results)
    assert sum(done) == sum(len(text.labels) for text in TEXTS[:4])
    list(results)
    assert sum(done) == sum(len(text.labels) for text in TEXTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_the_models_not_the_softmaxs(dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    for one, text in zip(read_teacher(model, TEXTS, k=VOCABULARY, batch_size=1), TEXTS, strict=True):
        expected = read_alone(model, text).sort(dim=-1, descending=True).values
        assert one.log_probs.dtype == torch.float32
        # The logits are of the model's precision; after them nothing may be lost.
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(one.log_probs.double(), expected.double(), atol=tolerance, rtol=0)
        sums = one.log_probs.double().exp().sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
        assert (one.tail == 0).all()


def test_the_tail_of_a_certain_teacher_keeps_its_digits() -> None:
    """1 - sum would be 0, or the rounding of the sum."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight *= 100
    tails = []
    for one, text in zip(read_teacher(model, TEXTS, k=2, batch_size=1), TEXTS, strict=True):
        rest = read_alone(model, text).sort(dim=-1, descending=True).values[:, 2:].exp().sum(-1)
        torch.testing.assert_close(one.tail.double(), rest, rtol=1e-5, atol=1e-37)
        tails += rest.tolist()
    assert 0 < min(tails) < 1e-20


def test_the_model_is_left_as_it_was() -> None:
    model = make_model()
    before = read_alone(model, TEXTS[0])
    list(read_teacher(model, TEXTS, k=4, batch_size=3))
    assert torch.equal(read_alone(model, TEXTS[0]), before)
    own = model.base_model.forward
    model.base_model.forward = lambda *arguments, **named: own(*arguments, **named)
    kept = model.base_model.forward
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(read_teacher(model, TEXTS, k=4, batch_size=3))
    assert model.base_model.forward is kept


@pytest.mark.parametrize(
    ("options", "words"), [({"k": 61}, "k is 61"), ({"k": 0}, "k is 0"), ({"batch_size": 0}, "at")]
)
def test_options_that_can_not_be_used_are_refused_at_once(options: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_teacher(make_model(), TEXTS, **{"k": 4, "batch_size": 2} | options)


def test_a_model_without_an_output_matrix_is_refused() -> None:
    with pytest.raises(UserError, match="LlamaModel is not a causal language model"):
        read_teacher(make_model().base_model, TEXTS, k=4, batch_size=2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[7] = value
    with pytest.raises(UserError, match="--dtype fp32"):
        list(read_teacher(model, TEXTS, k=4, batch_size=2))


def test_impossible_tokens_are_allowed() -> None:
    model = make_model()
    model.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.arange(58), -torch.inf))
    (found,) = read_teacher(model, TEXTS[:1], k=4, batch_size=2)
    assert found.log_probs[:, 2:].isneginf().all()
    assert found.log_probs[:, :2].isfinite().all()
    assert (found.tail == 0).all()
    assert found.label_log_probs.isneginf().any()


# The cache, made in pieces

SOURCES = dict.fromkeys(SOURCE, "x") | {"max_tokens": None}
MANY = make_texts(*[(3 + 5 * n % 17, 1 + 3 * n % 5) for n in range(23)], seed=5)
OPTIONS: dict[str, Any] = {"source": SOURCES, "k": 4, "batch_size": 2, "piece_tokens": 40}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model().float()


@pytest.fixture(scope="module")
def whole_cache(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of an undisturbed run, in two shards."""
    return cache_teacher(model, MANY, tmp_path_factory.mktemp("whole"), shards=2, **OPTIONS)


def count(texts: Sequence[EncodedText]) -> int:
    return sum(len(text.labels) for text in texts)


def test_a_cache_holds_what_the_teacher_says(model: PreTrainedModel, whole_cache: list[Path]) -> None:
    cache = TeacherCache(whole_cache, {**SOURCES, "k": 4, "vocabulary": VOCABULARY, "rounding": "fine", "shards": 2})
    assert (len(cache), cache.tokens) == (len(MANY), count(MANY))
    for found, text in zip(cache, MANY, strict=True):
        expected = read_alone(model, text)
        likeliest = expected.sort(dim=-1, descending=True).values[:, :4].float()
        rounding = {"rtol": 2**-11, "atol": 1.2 * max(map(spacing, likeliest.tolist()))}
        torch.testing.assert_close(found.log_probs, likeliest, **rounding)
        torch.testing.assert_close(found.tail, (1 - likeliest.exp().sum(-1)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.log_probs, expected.gather(1, found.ids).float(), **rounding)
        assert found.ends.tolist() == list(text.ends)
    assert sorted(path.name for path in whole_cache[0].parent.iterdir()) == [
        "teacher-00001-of-00002.safetensors",
        "teacher-00002-of-00002.safetensors",
    ]


def test_a_shard_is_the_same_with_any_pieces(model: PreTrainedModel, whole_cache: list[Path], tmp_path: Path) -> None:
    """But for the last bits of the teacher's own sums, which depend on what is read together and decide on steps."""
    paths = cache_teacher(model, MANY, tmp_path, shards=1, **{**OPTIONS, "piece_tokens": 10**6})
    for one, other in zip(TeacherCache(paths), TeacherCache(whole_cache), strict=True):
        step = max(map(spacing, other.log_probs.tolist()), default=0)
        torch.testing.assert_close(one.log_probs, other.log_probs, rtol=2**-11, atol=2.4 * step)


class StopError(Exception):
    """In place of a killed job."""


def make_until(tokens: int, *arguments: Any, **options: Any) -> int:
    """Make a cache until so many response tokens are computed; how many were."""
    computed = 0

    def stop(done: int) -> None:
        nonlocal computed
        computed += done
        if computed >= tokens:
            raise StopError

    with pytest.raises(StopError):
        cache_teacher(*arguments, on_batch=stop, **options)
    return computed


@pytest.mark.parametrize("tokens", [1, 15, 30, 45, 60])
def test_a_killed_run_goes_on(model: PreTrainedModel, whole_cache: list[Path], tmp_path: Path, tokens: int) -> None:
    make_until(tokens, model, MANY, tmp_path, shards=2, **OPTIONS)
    kept = sum(read_manifest(path)["tokens"] for path in tmp_path.rglob("*.safetensors"))
    computed: list[int] = []
    found: list[int] = []
    paths = cache_teacher(model, MANY, tmp_path, shards=2, on_batch=computed.append, on_found=found.append, **OPTIONS)
    assert sum(found) == kept
    assert sum(computed) == count(MANY) - kept
    assert kept == 0 or tokens > 1
    assert kept >= tokens - count(MANY) / 4  # at most a piece is lost
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in whole_cache]
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize(
    "change",
    [
        {"k": 5},
        {"batch_size": 3},
        {"piece_tokens": 41},
        *({"source": SOURCES | {name: 9 if name == "max_tokens" else "y"}} for name in SOURCE),
    ],
)
def test_another_run_starts_anew(model: PreTrainedModel, tmp_path: Path, change: dict[str, Any]) -> None:
    make_until(45, model, MANY, tmp_path, **OPTIONS)
    assert list((tmp_path / "checkpoints").rglob("*.safetensors"))
    computed: list[int] = []
    options = OPTIONS | change
    paths = cache_teacher(model, MANY, tmp_path, on_batch=computed.append, **options)
    assert sum(computed) == count(MANY)
    clean = cache_teacher(model, MANY, tmp_path / "clean", **options)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in clean]


def test_what_is_left_of_a_broken_record_is_thrown_away(model: PreTrainedModel, tmp_path: Path) -> None:
    make_until(45, model, MANY, tmp_path, **OPTIONS)
    (record,) = (tmp_path / "checkpoints").rglob("fingerprint.json")
    assert read_json(record)["fingerprint"]
    record.write_text("[")
    computed: list[int] = []
    cache_teacher(model, MANY, tmp_path, on_batch=computed.append, **OPTIONS)
    assert sum(computed) == count(MANY)


def flip(path: Path) -> None:
    """Change one bit of the numbers, which are at the end."""
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def test_a_damaged_shard_is_not_kept(model: PreTrainedModel, tmp_path: Path) -> None:
    """It is found before anything is computed; to delete it is left to whoever asked for the cache."""
    (second,) = cache_teacher(model, MANY, tmp_path, shards=2, only=[2], **OPTIONS)
    flip(second)
    computed: list[int] = []
    with pytest.raises(UserError, match=f"{second.name} is damaged .* delete it and make it anew"):
        cache_teacher(model, MANY, tmp_path, shards=2, on_batch=computed.append, **OPTIONS)
    assert not computed


def test_a_damaged_piece_is_made_again(model: PreTrainedModel, tmp_path: Path) -> None:
    make_until(45, model, MANY, tmp_path, **OPTIONS)
    damaged, *whole = sorted((tmp_path / "checkpoints").rglob("*.safetensors"))
    kept = sum(read_manifest(path)["tokens"] for path in whole)
    flip(damaged)
    computed: list[int] = []
    cache_teacher(model, MANY, tmp_path, on_batch=computed.append, **OPTIONS)
    assert sum(computed) == count(MANY) - kept


def test_shards_can_be_made_apart(model: PreTrainedModel, whole_cache: list[Path], tmp_path: Path) -> None:
    (second,) = cache_teacher(model, MANY, tmp_path, shards=2, only=[2], **OPTIONS)
    with pytest.raises(UserError, match="Shard 1 of 2 is missing"):
        TeacherCache(find_shards(tmp_path))
    assert second.read_bytes() == whole_cache[1].read_bytes()
    computed: list[int] = []
    paths = cache_teacher(model, MANY, tmp_path, shards=2, on_batch=computed.append, **OPTIONS)
    assert sum(computed) == read_manifest(paths[0])["tokens"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in whole_cache]


def test_work_on_another_shard_is_left_alone(model: PreTrainedModel, tmp_path: Path) -> None:
    make_until(20, model, MANY, tmp_path, shards=2, only=[2], **OPTIONS)
    before = sorted((tmp_path / "checkpoints").rglob("*"))
    cache_teacher(model, MANY, tmp_path, shards=2, only=[1], **OPTIONS)
    assert sorted((tmp_path / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({"source": SOURCES | {name: "y"}}, name) for name in SOURCE),
        ({"k": 5}, "k"),
        ({"shards": 3}, "shards"),
        ({"dtype": torch.bfloat16}, "dtype"),
    ],
)
def test_a_cache_of_other_settings_stays(
    model: PreTrainedModel, whole_cache: list[Path], tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    for path in whole_cache:
        shutil.copy(path, tmp_path)
    options = {**OPTIONS, "shards": 2, **change}
    other = make_model().to(options.pop("dtype", torch.float32))
    with pytest.raises(UserError, match=rf"teacher-00001-of-00002.*\({field} is .*another folder"):
        cache_teacher(other, MANY, tmp_path, **options)
    assert [path.read_bytes() for path in find_shards(tmp_path)] == [path.read_bytes() for path in whole_cache]


def test_a_shard_of_other_texts_stays(model: PreTrainedModel, whole_cache: list[Path], tmp_path: Path) -> None:
    """Their settings are the same: what names the texts is up to the caller."""
    for path in whole_cache:
        shutil.copy(path, tmp_path)
    others = [*MANY[:-1], replace(MANY[-1], digest=b"another.")]
    with pytest.raises(UserError, match=r"teacher-00002-of-00002\.safetensors is of other texts"):
        cache_teacher(model, others, tmp_path, shards=2, **OPTIONS)
    assert [path.read_bytes() for path in find_shards(tmp_path)] == [path.read_bytes() for path in whole_cache]


def test_pieces_of_other_texts_are_not_resumed(model: PreTrainedModel, tmp_path: Path) -> None:
    make_until(45, model, MANY, tmp_path, **OPTIONS)
    others = [replace(text, digest=bytes(7) + bytes([number + 1])) for number, text in enumerate(MANY)]
    computed: list[int] = []
    paths = cache_teacher(model, others, tmp_path, on_batch=computed.append, **OPTIONS)
    assert sum(computed) == count(MANY)
    assert TeacherCache(paths).digests == [text.digest for text in others]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 61}, "k is 61"),
        ({"shards": 24}, "23"),
        ({"shards": 0}, "number of shards is 0"),
        ({"shards": 2, "only": [3]}, "from 1 to 2"),
        ({"only": [0]}, "from 1 to 1"),
    ],
)
def test_caches_that_can_not_be_made_are_refused(
    model: PreTrainedModel, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        cache_teacher(model, MANY, tmp_path, **OPTIONS | change)
    assert list(tmp_path.iterdir()) == []


def test_a_source_is_whole(model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_hash"):
        cache_teacher(model, MANY, tmp_path, **OPTIONS | {"source": {"model_hash": "x"}})


def test_pieces_tile_the_texts() -> None:
    for tokens in (1, 9, 10, 11, 40, 10**6):
        pieces = offline._cut(MANY, tokens)
        assert [text for piece in pieces for text in piece] == MANY
        for piece in pieces:
            assert sum(len(text.ids) for text in piece[:-1]) < tokens
        for piece in pieces[:-1]:
            assert sum(len(text.ids) for text in piece) >= tokens
