"""The Trainer of students in transformers' form: by hand, in parts, in two processes, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import distill_worker
import pytest
import torch
from datasets import Dataset
from distill_worker import ROWS, make_trainer, train
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    HfArgumentParser,
    TrainingArguments,
)

from logitfusion.config.meanings import read_meanings
from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.distill import DistillationConfig, DistillationTrainer, trainer
from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.offline import SOURCE, cache_teacher
from logitfusion.distill.rows import read_texts
from logitfusion.errors import UserError
from logitfusion.models.architecture import count_vocabulary
from logitfusion.models.identity import hash_vocabulary
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.source import make_random

CPU = torch.device("cpu")
Result = tuple[dict[str, Tensor], list[dict[str, float]]]
WHOLE = {"per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher of its tokens, one of others, and a cache of the first one's predictions."""
    root = tmp_path_factory.mktemp("models")
    for name, tokenizer, seed in (("student", "bytes", 1), ("twin", "bytes", 2), ("stranger", "pairs", 3)):
        make_random(RandomModel(source="random", hidden_size=16, layers=1, seed=seed, tokenizer=tokenizer), root / name)
    tokenizer = load_tokenizer(root / "twin")
    source = dict.fromkeys(SOURCE, "x") | {"max_tokens": None, "vocabulary_hash": hash_vocabulary(tokenizer)}
    texts = encode_texts(tokenizer, read_texts(ROWS, "rows"))
    twin = load_model(root / "twin", device=CPU)
    cache_teacher(twin, texts, root / "cache", source=source, k=count_vocabulary(twin), batch_size=4)
    return root


@pytest.fixture(scope="module")
def straight(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A training of two epochs of nine texts, in batches of four."""
    return train(folder, tmp_path_factory.mktemp("straight"), **WHOLE)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """But for the order of sums; AdamW divides by the size of a gradient, so rounding of one near 0 counts."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def assert_same_logs(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for mine, its in zip(found, expected, strict=True):
        # transformers counts an accumulated step of an epoch as if its micro-batches were whole.
        names = [name for name in its if not name.endswith(("epoch", "second", "time", "flos"))]
        assert {name: mine[name] for name in names} == pytest.approx({name: its[name] for name in names}, rel=1e-4)


def test_an_evaluation_is_what_the_formulas_say(folder: Path, tmp_path: Path) -> None:
    """SFT and KL of all held-out texts, each read alone, in float64; batches of two, of unlike lengths."""
    found = make_trainer(folder, tmp_path, gld=0, uld=0, per_device_eval_batch_size=2).evaluate()
    texts = encode_texts(load_tokenizer(folder / "student"), read_texts(ROWS[-5:], "rows"))
    models = [load_model(folder / name, device=CPU).double() for name in ("student", "twin")]
    sft, kl, labels = 0.0, 0.0, 0
    for text in texts:
        places = slice(text.start - 1, len(text.ids) - 1)
        ours, theirs = (model(torch.tensor([text.ids])).logits[0, places].log_softmax(-1) for model in models)
        sft -= ours.gather(1, torch.tensor(text.labels)[:, None]).sum().item()
        kl += (theirs.exp() * (theirs - ours)).sum().item()
        labels += len(text.labels)
    assert found["eval_sft"] == pytest.approx(sft / labels, rel=1e-5)
    assert found["eval_kl"] == pytest.approx(kl / labels, rel=1e-4)
    assert found["eval_loss"] == pytest.approx((0.7 * sft + 0.3 * kl) / labels, rel=1e-5)
    assert "eval_uld" not in found


@pytest.mark.parametrize("sizes", [(1, 4), (2, 2), (3, 2)])
def test_a_step_in_parts_is_the_step_of_the_whole(folder: Path, tmp_path: Path, sizes: tuple[int, int]) -> None:
    """Nine texts: the last step is shorter, and so is its last micro-batch."""
    whole = {"per_device_train_batch_size": sizes[0] * sizes[1]}
    parts = {"per_device_train_batch_size": sizes[0], "gradient_accumulation_steps": sizes[1]}
    (expected, logged), (found, other) = (train(folder, tmp_path, num_train_epochs=1, **how) for how in (whole, parts))
    assert_same(found, expected)
    assert_same_logs(other, logged)
    for row in logged[:-2]:
        share = sum(row[name] * factor for name, factor in (("sft", 0.4), ("uld", 0.2), ("gld", 0.1), ("kl", 0.3)))
        assert row["loss"] == pytest.approx(share, rel=1e-4)


def test_two_processes_are_one(folder: Path, tmp_path: Path, straight: Result) -> None:
    """The ninth text leaves the second process without any in the last step; the same of held-out ones."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (Path(trainer.__file__).parents[2], Path(__file__).parent))),
        "OMP_NUM_THREADS": "1",
    }
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, distill_worker.__file__, folder, tmp_path],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, logged = torch.load(tmp_path / "two.pt")
    assert_same(found, straight[0])
    assert_same_logs(logged, straight[1])


def test_a_model_that_reads_no_padding_reads_one_text_at_a_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    straight: Result,
) -> None:  # fmt: skip
    plan = trainer.plan_padding

    def alone(*arguments: Any) -> Any:
        found = plan(*arguments)
        return dataclasses.replace(found, recipe=found.recipe.model_copy(update={"micro_batch": 1}), alone=True)

    monkeypatch.setattr(trainer, "plan_padding", alone)
    found, logged = train(folder, tmp_path, **WHOLE)
    assert_same(found, straight[0])
    assert_same_logs(logged, straight[1])


def test_a_training_goes_on_from_a_checkpoint(folder: Path, tmp_path: Path, straight: Result) -> None:
    kept = {"save_strategy": "steps", "save_steps": 2}
    train(folder, tmp_path, **WHOLE, **kept)
    again = make_trainer(folder, tmp_path, **WHOLE, **kept)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(dict(again.model.state_dict()), straight[0])


def open_models(folder: Path) -> tuple[Any, Any]:
    classes = AutoModelForCausalLM, AutoTokenizer
    return tuple(one.from_pretrained(folder / "twin") for one in classes)


@pytest.mark.parametrize(
    ("open_teacher", "tolerance"),
    [
        (open_models, 0),
        (lambda folder: str(folder / "twin"), 0),
        (lambda folder: folder / "cache", 1e-2),
        (lambda folder: TeacherCache(find_shards(folder / "cache")), 1e-2),
    ],
)
def test_teachers_are_named_in_many_ways(
    folder: Path, tmp_path: Path, open_teacher: Callable[[Path], Any], tolerance: float
) -> None:
    """The cache has all tokens of each position, in 16 bits."""
    expected = make_trainer(folder, tmp_path).evaluate()
    found = make_trainer(folder, tmp_path, teachers={"twin": open_teacher(folder)}).evaluate()
    for part in ("loss", "sft", "uld", "gld", "kl"):
        assert found[f"eval_{part}"] == pytest.approx(expected[f"eval_{part}"], rel=tolerance)


def test_texts_that_a_cache_lacks_are_evaluated_by_their_labels(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = make_trainer(folder, tmp_path, teachers={"twin": folder / "cache"})
    assert {"eval_sft", "eval_kl"} <= student.evaluate().keys()
    others = Dataset.from_list([{"prompt": "Another:", "completion": " one"}])
    found = student.evaluate(others)
    assert "held out are evaluated by the loss of the labels alone: Teacher 'twin' does not have" in caplog.text
    assert found["eval_loss"] == found["eval_sft"] > 0
    assert "eval_kl" not in found


def test_a_training_ends_early_by_what_the_caller_measures(folder: Path, tmp_path: Path) -> None:
    """The score falls from the second evaluation on; the best student is the first one's."""
    scores = iter((2.0, 1.0, 1.0, 1.0))
    seen: list[bool] = []

    def measure(model: Any) -> dict[str, float]:
        seen.append(model.training)
        return {"score": next(scores)}

    found = make_trainer(
        folder, tmp_path, measure=measure, callbacks=[EarlyStoppingCallback(2)], num_train_epochs=9,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="score",
        greater_is_better=True,
    )  # fmt: skip
    found.train()
    assert [row["eval_score"] for row in found.state.log_history if "eval_score" in row] == [2.0, 1.0, 1.0]
    assert found.state.epoch == 3.0
    assert seen == [False] * 3
    best = AutoModelForCausalLM.from_pretrained(found.state.best_model_checkpoint, dtype=torch.float32)
    assert all(map(torch.equal, best.state_dict().values(), found.model.state_dict().values()))


def test_a_student_is_named_by_its_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "student", tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    settings = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for form, dtype in ((None, torch.float32), (LoraConfig(target_modules="all-linear"), torch.bfloat16)):
        student = DistillationTrainer(tmp_path / "half", settings, train_dataset=ROWS, peft_config=form)
        assert student.model.get_input_embeddings().weight.dtype == dtype
        assert {value.dtype for value in student.model.parameters() if value.requires_grad} == {torch.float32}
        assert student.processing_class.is_fast


def test_several_sets_are_evaluated_by_name(folder: Path, tmp_path: Path) -> None:
    student = make_trainer(folder, tmp_path)
    sets = {"short": ROWS[10:11], "all": Dataset.from_list(ROWS[-5:])}
    found = student.evaluate(sets)
    assert found["eval_all_loss"] == pytest.approx(student.evaluate()["eval_loss"])
    assert found["eval_short_kl"] > 0


def test_a_held_out_set_may_have_any_name(folder: Path, tmp_path: Path) -> None:
    student = make_trainer(folder, tmp_path, eval_dataset={"train_dataset": ROWS[-2:], "test": ROWS[-1:]})
    assert [len(student.train_dataset), *map(len, student.eval_dataset.values())] == [9, 2, 1]


def test_an_evaluation_drops_no_texts(folder: Path, tmp_path: Path) -> None:
    """What drops a short last batch of a training would leave nothing of five texts, or one too few."""
    expected = make_trainer(folder, tmp_path).evaluate()
    for size in (2, 8):
        found = make_trainer(folder, tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=size).evaluate()
        assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_texts_may_be_grouped_by_their_lengths(folder: Path, tmp_path: Path, strategy: str) -> None:
    """transformers reads all rows for it, one after the other to the end."""
    student = make_trainer(folder, tmp_path, train_sampling_strategy=strategy)
    assert len(list(islice(student.train_dataset, 20))) == 9  # before what would have no end
    assert sum(len(batch["labels"]) for batch in student.get_train_dataloader()) >= 8


@pytest.mark.parametrize("checkpointed", [False, True])
def test_adapters_are_trained_and_saved(folder: Path, tmp_path: Path, checkpointed: bool) -> None:
    form = LoraConfig(r=2, target_modules="all-linear")
    student = make_trainer(folder, tmp_path, peft_config=form, gradient_checkpointing=checkpointed, learning_rate=0.1)
    before = {name: value.clone() for name, value in student.model.named_parameters()}
    student.train()
    changed = {name for name, value in student.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    student.save_model(str(tmp_path / "saved"))
    plain = AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32)
    ids = torch.arange(20, 30)[None]
    found = PeftModel.from_pretrained(plain, tmp_path / "saved").eval()(ids).logits
    torch.testing.assert_close(found, student.model.eval()(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").is_fast


def test_a_chat_is_written_as_messages_or_in_two_parts() -> None:
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    rows = [{"messages": [user, assistant]}, {"prompt": [user], "completion": [assistant]}]
    whole, parts = read_texts(rows, "rows")
    assert whole == parts
    assert read_texts([{"prompt": "Hi", "response": "Hello"}], "rows") == [("Hi", "Hello")]


def test_settings_are_those_of_the_objective(tmp_path: Path) -> None:
    """Name, type, default and meaning stand in one place, and none is one of transformers' own."""
    words = ["--output_dir", str(tmp_path), "--kl", ".5", "--gld", ".1", "--combine", "weighted", "--weights", "1", "2"]
    (read,) = HfArgumentParser(DistillationConfig).parse_args_into_dataclasses(words)
    assert read.objective == Objective(kl=0.5, gld=0.1, combine="weighted", weights=(1.0, 2.0))
    assert DistillationConfig(output_dir=str(tmp_path)).objective == Objective()
    assert not set(Objective.model_fields) & {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in Objective.model_fields:
        assert f"{name}: {read_meanings(Objective)[name]}" in DistillationConfig.__doc__


def test_another_schedule_is_transformers_own(folder: Path, tmp_path: Path) -> None:
    for kind, first in (("linear", 0.0), ("cosine", 1 / 3), ("constant", 1.0)):
        student = make_trainer(folder, tmp_path, lr_scheduler_type=kind, warmup_steps=2, learning_rate=1.0)
        student.create_optimizer_and_scheduler(6)
        assert student.lr_scheduler.get_last_lr()[0] == pytest.approx(first)


def test_weights_in_half_precision_are_warned_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments: dict[str, Any] = {
        "args": DistillationConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
        "train_dataset": ROWS, "processing_class": AutoTokenizer.from_pretrained(folder / "student"),
    }  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        assert "bfloat16" not in caplog.text
        DistillationTrainer(AutoModelForCausalLM.from_pretrained(folder / "student", dtype=dtype), **arguments)
    assert "trained in bfloat16, where small steps are lost" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teachers": {}}, "needs both teachers and a factor"),
        ({"kl": 0, "uld": 0, "gld": 0}, "needs both teachers and a factor"),
        ({"kl": 2}, "kl must be at most 1.0"),
        ({"k": 10**6}, "k is 1000000, and the student of this training has"),
        ({"combine": "weighted", "weights": [1.0, 2.0]}, "There are 1 teachers and 2 weights"),
        ({"label_smoothing_factor": 0.1}, "leave label_smoothing_factor out"),
        ({"teachers": {"twin": "nowhere"}}, "'twin': there is no folder nowhere"),
        ({"teachers": {"twin": "alone"}}, "'twin' is a model alone"),
        ({"teachers": {"twin": "stranger"}}, "'twin' has another vocabulary"),
    ],
)
def test_what_can_not_be_used_is_refused(folder: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    changes = dict(changes)
    given = changes.get("teachers", {}).get("twin")
    if given is not None and given != "nowhere":
        model = load_model(folder / "twin", device=CPU) if given == "alone" else folder / given
        changes["teachers"] = {"twin": model}
    with pytest.raises(UserError, match=words):
        make_trainer(folder, tmp_path, **changes)


def test_columns_that_a_row_has_not_are_passed_over() -> None:
    """A Dataset gives every row all columns."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    columns = dict.fromkeys(("prompt", "response", "completion", "messages"))
    given = [{"messages": messages}, {"prompt": "a", "response": "b"}, {"prompt": "a", "completion": "b"}]
    given.append({"prompt": messages[:1], "completion": messages[1:]})
    assert read_texts([columns | row for row in given], "rows") == [messages, ("a", "b"), ("a", "b"), messages]


@pytest.mark.parametrize("form", [None, LoraConfig(r=2, target_modules="all-linear")])
def test_a_teacher_is_not_the_student_itself(folder: Path, tmp_path: Path, form: LoraConfig | None) -> None:
    """Adapters are put into the model that is given, so it would say what the student says, and teach nothing."""
    model, tokenizer = open_models(folder)
    arguments: dict[str, Any] = {
        "args": DistillationConfig(output_dir=str(tmp_path), kl=0.5, k=5, use_cpu=True, report_to="none"),
        "train_dataset": ROWS, "processing_class": tokenizer, "peft_config": form,
    }  # fmt: skip
    DistillationTrainer(copy.deepcopy(model), teachers={"t": [model, tokenizer]}, **arguments)
    with pytest.raises(UserError, match="Teacher 't' has the student's own weights"):
        DistillationTrainer(model, teachers={"t": (model, tokenizer)}, **arguments)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"compute_metrics": print}, "give measure"),
        ({"compute_loss_func": print}, "leave compute_loss_func out"),
        ({"processing_class": None}, "give processing_class"),
        ({"eval_dataset": []}, "No text has a response"),
        ({"train_dataset": iter(ROWS)}, "train_dataset is a stream"),
        ({"train_dataset": [{"text": "x"}]}, "this one has text"),
        ({"eval_dataset": [{}]}, "this one has none"),
        (
            {"train_dataset": [{"prompt": "x", "response": "y", "completion": "z"}]},
            "this one has prompt, response, completion",
        ),
        ({"args": TrainingArguments()}, "args is a DistillationConfig"),
        ({"teachers": "folder"}, "teachers is a dict of name and teacher, not str"),
        (
            {"teachers": {"t": None}},
            r"'t' is neither a folder nor a model \(NoneType\); give a model with its tokenizer",
        ),
    ],
)
def test_what_is_not_heeded_is_refused(folder: Path, tmp_path: Path, others: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {
        "model": load_model(folder / "student", device=CPU), "args": DistillationConfig(output_dir=str(tmp_path)),
        "train_dataset": ROWS, "processing_class": load_tokenizer(folder / "student"),
    }  # fmt: skip
    with pytest.raises(UserError, match=words):
        DistillationTrainer(**arguments | others)
