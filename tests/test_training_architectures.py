"""A training sees each row as the model reads it alone, whatever the architecture: loss and gradients are the rows'."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
    TrainerCallback,
)

from logitfusion.config.objective import Objective
from logitfusion.config.training import HealRecipe, LoRA, Recipe
from logitfusion.distill.encoding import encode_text
from logitfusion.distill.training import distill
from logitfusion.errors import UserError
from logitfusion.models.architecture import context_length, reset_rope
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.training.batches import CompletionCollator, TextCollator
from logitfusion.training.finetune import CompletionTrainer, finetune
from logitfusion.training.heal import HealingTrainer, heal
from logitfusion.training.loop import trainer_arguments
from logitfusion.training.packing import make_batches
from logitfusion.training.padding import Padding, plan_padding

TOKENIZER = tiny_tokenizer()
SHARED = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
DECODER = {"is_decoder": True, "pad_token_id": 1}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
ENCODER = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
# Architecture -> its settings.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "opt": {"word_embed_proj_dim": 8, "ffn_dim": 24, "dropout": 0.0},
    "bloom": {},
    "gemma3_text": {"sliding_window": 4},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2},
    "falcon": {"alibi": True, "head_dim": None},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 3, "experts_implementation": "eager"},
    "bert": DECODER,
    "roberta": DECODER,
    "bart": {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, **ENCODER},
    "mamba": {"state_size": 4},
    "rwkv": {"attention_hidden_size": 16},
    "recurrent_gemma": {"lru_width": 16, "attention_window_size": 4, "num_hidden_layers": 3},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "num_experts": 2},
    "qwen3_5_text": {**LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    "xlstm": {"num_heads": 2, "num_blocks": 2, "chunk_size": 8},
    "llama dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": 8},
}
ALONE = {"llama dynamic"}  # its rotary encoding looks at the longest row
RECIPE = Recipe(
    steps=1, batch_size=4, micro_batch=4, learning_rate=1e-9, weight_decay=0.0, max_tokens=64, checkpoint_minutes=60.0,
    precision="fp32", seed=0,
)  # fmt: skip
SHAPES = ((23, 3), (14, 5), (6, 4), (4, 3))


def randomise(model: PreTrainedModel) -> PreTrainedModel:
    """Weights of which padding would be seen, and no dropout in training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.tie_weights()
    return model.eval()


def build(name: str, **others: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = SHARED | FAMILIES[name] | others
    given = {key: value for key, value in settings.items() if value is not None}
    config = AutoConfig.for_model(name.split()[0], **given)
    for dropout in ("dropout", "attention_dropout", "activation_dropout"):
        if isinstance(getattr(config, dropout, None), float):
            setattr(config, dropout, 0.0)
    return randomise(AutoModelForCausalLM.from_config(config))


def build_gemma3() -> PreTrainedModel:
    """Of text and images, whose text config is nested."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(text_config=SHARED, vision_config=vision, mm_tokens_per_image=4, image_token_index=258)
    return randomise(Gemma3ForConditionalGeneration(config))


def make_rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {"input_ids": torch.randint(3, 250, (length,), generator=generator).tolist(), "completion": own}
        for length, own in SHAPES
    ]


def read_alone(model: PreTrainedModel, rows: list[dict[str, Any]]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, by definition: of the plain forward of each row, by all rows' tokens."""
    model.zero_grad()
    tokens, total = sum(row["completion"] for row in rows), 0.0
    for row in rows:
        ids, own = row["input_ids"], row["completion"]
        reset_rope(model)
        log_probs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
        loss = -sum(log_probs[place - 1, ids[place]] for place in range(len(ids) - own, len(ids))) / tokens
        loss.backward()
        total += float(loss.detach())
    return total, take_gradients(model)


def take_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """By the size of the whole gradient: some biases have none but rounding."""
    size = max(float(value.abs().max()) for value in expected.values())
    assert size > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_has_loss_and_gradients_of_its_rows_alone(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, rows, alone = build(name), make_rows(), name in ALONE
    expected, gradients = read_alone(model.train(), rows)
    with caplog.at_level(logging.INFO):
        padding = plan_padding(model, TOKENIZER, rows, RECIPE, "test")
    micro = padding.recipe.micro_batch
    assert (padding.alone, micro) == (alone, 1 if alone else 4)
    assert ("can't read padding" in caplog.text) == alone
    trainer = make_trainer(model, rows, tmp_path, padding)
    model.zero_grad()
    tokens, loss = sum(row["completion"] for row in rows), 0.0
    for start in range(0, len(rows), micro):
        batch = trainer.data_collator(rows[start : start + micro])
        part = trainer.compute_loss(model.train(), batch, num_items_in_batch=tokens)
        part.backward()
        loss += float(part.detach())
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_close(take_gradients(model), gradients)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "opt", "falcon", "bert"])
@pytest.mark.parametrize("packing", [None, 28])
def test_every_query_of_a_batch_sees_a_token(
    name: str, packing: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused kernels of attention may give NaN for one that sees none."""
    model, rows, recipe = build(name, attn_implementation="sdpa"), make_rows(), RECIPE
    recipe = recipe.model_copy(update={"packing": packing})
    padding = plan_padding(model, TOKENIZER, rows, recipe, "test")
    batches = make_batches(model, rows, recipe, padding, CompletionCollator(padding.pad), "test")
    seen, attend = [], nn.functional.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        seen.append(attn_mask)
        return attend(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record)
    trainer, size = make_trainer(model, rows, tmp_path, padding), batches.recipe.micro_batch
    for start in range(0, len(batches.rows), size):
        batch = batches.collator([batches.rows[place] for place in range(start, start + size)])
        trainer.compute_loss(model.train(), batch, num_items_in_batch=15)
    assert seen
    masks = [mask for mask in seen if mask is not None]
    assert all(bool((mask if mask.dtype == torch.bool else mask > -1e4).any(-1).all()) for mask in masks)
    if packing is None and name in ("llama", "opt"):  # which attend to all that came before
        assert not masks


# Those that take positions from what they are told, and make the mask of attention from these.
PACKED = {"llama", "gpt2", "gemma3_text", "gpt_neox", "mixtral"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_row_has_loss_and_gradients_of_its_texts_alone(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, rows, recipe = build(name), make_rows(), RECIPE.model_copy(update={"packing": 28})
    expected, gradients = read_alone(model.train(), rows)
    padding = plan_padding(model, TOKENIZER, rows, recipe, "test")
    collator = CompletionCollator(padding.pad)
    with caplog.at_level(logging.INFO):
        batches = make_batches(model, rows, recipe, padding, collator, "test")
    packed = "the 4 texts of a step are packed in 2 rows" in caplog.text
    assert packed == (name in PACKED) == (f"not packed, because {type(model).__name__}" not in caplog.text)
    trainer = make_trainer(model, rows, tmp_path, padding)
    model.zero_grad()
    tokens, loss, size = sum(row["completion"] for row in rows), 0.0, batches.recipe.micro_batch
    for start in range(0, len(batches.rows), size):
        batch = batches.collator([batches.rows[place] for place in range(start, start + size)])
        assert not packed or batch["input_ids"].shape[0] == 1
        part = trainer.compute_loss(model.train(), batch, num_items_in_batch=tokens)
        part.backward()
        loss += float(part.detach())
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_close(take_gradients(model), gradients)


def make_trainer(
    model: PreTrainedModel, rows: list[dict[str, Any]], folder: Path, padding: Padding
) -> CompletionTrainer:
    arguments = trainer_arguments(padding.recipe, folder)
    arguments.max_grad_norm = 0.0  # clipped gradients would hide a wrong factor
    collator = CompletionCollator(padding.pad)
    return CompletionTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)


class Gradients(TrainerCallback):
    """Keeps the gradients of the one optimiser step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.found = take_gradients(model)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_model_of_text_and_images_is_divided_by_the_tokens_of_the_step(tmp_path: Path, micro_batch: int) -> None:
    """transformers' Trainer counts none for Gemma 3n and 4, whose micro-batches would each weigh as the whole step."""
    expected, gradients = read_alone(build_gemma3().train(), make_rows())
    recipe = RECIPE.model_copy(update={"micro_batch": micro_batch})
    model = build_gemma3()
    model.accepts_loss_kwargs = False  # as those say of themselves
    trainer = make_trainer(model, make_rows(), tmp_path, Padding(recipe, 0))
    found = Gradients()
    trainer.add_callback(found)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert_close(found.found, gradients)


@pytest.mark.parametrize("name", ["roberta", "mamba", "llama"])
def test_a_student_is_read_in_the_same_way(name: str, tmp_path: Path) -> None:
    pairs = [("ab", "cde"), ("a much longer prompt", "x"), ("", "yes")]
    texts = [encode_text(TOKENIZER, *pair) for pair in pairs]
    rows = [{"input_ids": list(text.ids), "completion": len(text.labels)} for text in texts]
    recipe = RECIPE.model_copy(update={"batch_size": 3, "micro_batch": 3})
    expected, _ = read_alone(build(name), rows)
    options: dict[str, Any] = {"lora": None, "fingerprint": "x", "name": "test"}
    _, curve = distill(build(name), TOKENIZER, texts, {}, Objective(k=4), recipe, checkpoints=tmp_path / "a", **options)
    assert curve[0]["loss"] == pytest.approx(expected, rel=1e-5)


# ---- padding, lengths, and models that are none --------------------------------------------------------------------


class NoPad:
    """The tiny tokenizer without a padding token."""

    pad_token_id: int | None = None

    def __init__(self, pad: int | None = None) -> None:
        self.pad_token_id = pad

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return TOKENIZER(*arguments, **options)


@pytest.mark.parametrize("pad", [None, len(TOKENIZER)])
def test_a_padding_token_is_not_needed(pad: int | None, tmp_path: Path) -> None:
    """None, or one that the tokenizer has and the model has not: nobody sees it."""
    examples = [{"prompt": "a", "completion": "b"}, {"prompt": "a longer one", "completion": "c"}]
    recipe = RECIPE.model_copy(update={"batch_size": 2, "micro_batch": 2, "steps": 2, "learning_rate": 1e-2})
    curves = [
        finetune(
            build("llama"), tokenizer, examples, recipe,
            lora=None, checkpoints=tmp_path / str(number), fingerprint="x", name="test",
        )[1]
        for number, tokenizer in enumerate((NoPad(pad), TOKENIZER))
    ]  # fmt: skip
    assert curves[0] == curves[1]
    heal_recipe = HealRecipe(steps=1, batch_size=2, micro_batch=2, precision="fp32", seed=0)
    _, curve = heal(build("llama"), build("llama"), NoPad(pad), ["a", "longer"], heal_recipe,
                    checkpoints=tmp_path / "heal", fingerprint="x")  # fmt: skip
    assert curve[0]["loss"] == pytest.approx(0, abs=1e-4)


def test_healing_reads_rows_alone_without_a_mask(tmp_path: Path) -> None:
    """A model whose rotary encoding looks at the longest row, healed to itself: nothing to learn."""
    model, teacher = build("llama dynamic"), build("llama dynamic")
    rows = make_rows()
    padding = plan_padding(model, TOKENIZER, rows, RECIPE, "test")
    trainer = HealingTrainer(
        model=model, teacher=teacher, logit_share=1.0, args=trainer_arguments(padding.recipe, tmp_path),
        train_dataset=rows, data_collator=TextCollator(padding.pad),
    )  # fmt: skip
    with torch.no_grad():
        teacher(torch.arange(3, 63)[None])  # it has read a long text, the student has not
    for row in rows:
        assert float(trainer.compute_loss(model, trainer.data_collator([row])).detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("name", "limit"), [("opt", 16), ("gpt2", 16), ("roberta", 14)])
def test_longer_rows_than_a_model_reads_are_refused_before_work(name: str, limit: int, tmp_path: Path) -> None:
    model = build(name, max_position_embeddings=16)
    assert context_length(model) == limit
    model(input_ids=torch.full((1, limit), 5))
    examples = [{"prompt": "a", "completion": "b"}, {"prompt": "a" * 12, "completion": "bcde"}]
    words = rf"Text 2 has 17 tokens, and the model of test reads at most {limit}; lower max_tokens to {limit}\."
    options: dict[str, Any] = {"lora": None, "checkpoints": tmp_path, "fingerprint": "x", "name": "test"}
    with pytest.raises(UserError, match=words):
        finetune(model, TOKENIZER, examples, RECIPE, **options)
    texts = [encode_text(TOKENIZER, row["prompt"], row["completion"]) for row in examples]
    with pytest.raises(UserError, match=r"Text 2 has .* lower max_tokens"):
        distill(model, TOKENIZER, texts, {}, Objective(k=4), RECIPE, **options)
    recipe = HealRecipe(steps=1, batch_size=2, seed=0)
    with pytest.raises(UserError, match="model of healing reads at most"):
        heal(model, model, TOKENIZER, ["a", "b" * 20], recipe, checkpoints=tmp_path, fingerprint="x")
    assert not list(tmp_path.iterdir())
    finetune(model, TOKENIZER, examples, RECIPE.model_copy(update={"max_tokens": limit}), **options)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_is_not_trained_to_copy(name: str) -> None:
    with pytest.raises(UserError, match=r"is not a causal language model here.*is_decoder: true"):
        plan_padding(build(name, is_decoder=False), TOKENIZER, make_rows(), RECIPE, "test")


def test_a_model_of_fixed_lengths_is_refused() -> None:
    config = AutoConfig.for_model(
        "reformer", **SHARED, is_decoder=True, axial_pos_embds=False, attn_layers=["local"], local_attn_chunk_length=8
    )
    model = randomise(AutoModelForCausalLM.from_config(config))
    with pytest.raises(UserError, match=r"test: ReformerModelWithLMHead can't be trained on texts of any length"):
        plan_padding(model, TOKENIZER, make_rows(), RECIPE, "test")
    assert not model.training


def test_a_student_of_fewer_tokens_than_k_is_refused(tmp_path: Path) -> None:
    texts = [encode_text(TOKENIZER, "a", "b")]
    with pytest.raises(UserError, match="k is 400, and the student test has 259 tokens"):
        distill(build("llama"), TOKENIZER, texts, {"t": None}, Objective(k=400, uld=0.5), RECIPE, lora=None,
                checkpoints=tmp_path, fingerprint="x", name="test")  # fmt: skip


def test_an_architecture_without_adapters_is_refused_by_name(tmp_path: Path) -> None:
    examples = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(UserError, match=r"MambaForCausalLM can't be trained by LoRA .* method: full\."):
        finetune(build("mamba"), TOKENIZER, examples, RECIPE, lora=LoRA(rank=2), checkpoints=tmp_path,
                 fingerprint="x", name="test")  # fmt: skip
