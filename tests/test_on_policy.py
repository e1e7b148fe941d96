"""The student's own answers in the texts' place: encoded as texts are, drawn from the student, judged by teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill_online import CPU, RECIPE, TEXTS, encoded, make_random
from test_distill_training import assert_same
from transformers import GenerationConfig, PreTrainedTokenizerBase

from logitfusion.config.distill import Distill
from logitfusion.config.models import RandomModel
from logitfusion.config.objective import Objective
from logitfusion.config.prompting import TextFormat
from logitfusion.config.training import LoRA
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.encoding import encode_texts
from logitfusion.distill.on_policy import OwnAnswers
from logitfusion.distill.rows import DistillationCollator, pair_texts
from logitfusion.distill.sources import CachedSource, OnlineSource
from logitfusion.distill.training import distill
from logitfusion.errors import UserError
from logitfusion.models.examples import ExampleEncoder
from logitfusion.models.load import load_model, load_tokenizer

OWN = Objective(kl=0.5, uld=0.2, k=5, on_policy=1.0, new_tokens=9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, names = tmp_path_factory.mktemp("own"), {"student": "bytes", "twin": "bytes", "stranger": "pairs"}
    for seed, (name, tokenizer) in enumerate(names.items(), 1):
        make_random(RandomModel(source="random", hidden_size=16, layers=1, seed=seed, tokenizer=tokenizer), root / name)
    return {name: root / name for name in names}


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """With a template of chats, of which one writes a line break before what an assistant says."""
    tokenizer = load_tokenizer(folder)
    said = "{% for m in messages %}[{{ m.role }}]" + ("\n" if folder.name == "twin" else "")
    said += "{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    tokenizer.chat_template = said
    return tokenizer


def set_up(
    folders: dict[str, Path], forms: dict[str, TextFormat], objective: Objective = OWN
) -> tuple[OwnAnswers, list[dict[str, Any]]]:
    """What rewrites batches, and the rows of all texts; every model has a form of its own."""
    sources = {}
    for name in ("twin", "stranger"):
        form, tokenizer = forms.get(name, TextFormat()), tokenizer_of(folders[name])
        texts = encode_texts(tokenizer, TEXTS, template=form.template)
        sources[name] = OnlineSource(load_model(folders[name], device=CPU), tokenizer, texts, objective, form)
    form, tokenizer = forms.get("student", TextFormat()), tokenizer_of(folders["student"])
    rows = list(pair_texts(encode_texts(tokenizer, TEXTS, template=form.template), sources, objective.alignment))
    collator = DistillationCollator(tokenizer.pad_token_id, list(sources.values()))
    return OwnAnswers(objective, ExampleEncoder(tokenizer, form), collator, seed=3), rows


CHAT = TextFormat(template="chat")


@pytest.mark.parametrize("forms", [{}, {"student": CHAT, "twin": CHAT}, {"twin": CHAT, "stranger": CHAT}])
@pytest.mark.parametrize("alignment", ["bytes", "positions"])
def test_an_answer_is_read_as_the_same_response_of_a_text(
    folders: dict[str, Path], forms: dict[str, TextFormat], alignment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers what the data says gets the data's own batch: tokens, labels, groups, what teachers read."""
    answers, rows = set_up(folders, forms, OWN.model_copy(update={"alignment": alignment}))
    monkeypatch.setattr(answers, "_answer", lambda model, prompts: [(response, True) for _, response in TEXTS])
    batch = answers.collator(rows)
    found = answers.write(load_model(folders["student"], device=CPU), batch, (0, 0, 0))
    for mine, its in zip(found.pop("teachers"), batch.pop("teachers"), strict=True):
        assert_same(mine, its)
    assert_same(found, batch)


def test_what_is_not_finished_is_not_closed(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an answer of nothing count, where a limit of tokens left none; a row without labels stays without."""
    answers, rows = set_up(folders, {})
    monkeypatch.setattr(
        answers, "_answer", lambda model, prompts: [(" 10", False), ("", False), ("", True), (" 7", True)]
    )
    rows[3] = rows[3] | {"learned": [False] * rows[3]["completion"], "groups": [some[:0] for some in rows[3]["groups"]]}
    found = answers.write(load_model(folders["student"], device=CPU), answers.collator(rows[:4]), (0, 0, 0))
    assert ((found["labels"] != -100).sum(1)).tolist() == [3, 0, 1, 0]
    end = answers.encoder.closing
    assert found["labels"][2, -1] == end
    assert end not in found["labels"][0].tolist()


def test_it_draws_from_the_student_itself(folders: dict[str, Path]) -> None:
    """Whatever the model's file says of generation; the same draws for the same place, and none of the training's."""
    answers, rows = set_up(folders, {})
    model, batch = load_model(folders["student"], device=CPU), answers.collator(rows)
    model.generation_config = own = GenerationConfig(top_k=1, do_sample=False, repetition_penalty=9.0, max_length=3)
    model.train()
    state = torch.get_rng_state()
    first, again, other = (answers.write(model, batch, place) for place in ((0, 0, 0), (0, 0, 0), (1, 0, 0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.generation_config is own
    assert model.training
    assert torch.equal(first["input_ids"], again["input_ids"])
    drawn = [{tuple(row[row >= 0].tolist()) for row in one["labels"]} for one in (first, other)]
    assert drawn[0] != drawn[1]
    assert len(drawn[0]) > 6, "not the likeliest tokens alone"


def test_draws_have_the_students_chances(folders: dict[str, Path]) -> None:
    """The first token of an answer, over many rows of one prompt: some letters are likely, and unlike."""
    answers, _ = set_up(folders, {}, OWN.model_copy(update={"new_tokens": 1}))
    model, tokenizer = load_model(folders["student"], device=CPU), answers.encoder.encoder.tokenizer
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "abcdef"]
    more = torch.zeros(model.config.vocab_size).index_add(0, torch.tensor(letters), torch.arange(5.0, 8.0, 0.5))
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + more)
    prompt = list(encoded(folders["student"])[0].ids[:6])
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)[letters]
    torch.manual_seed(0)
    drawn = [answer for answer, _ in answers._answer(model, [prompt] * 4000)]
    found = torch.tensor([drawn.count(letter) for letter in "abcdef"]) / 4000
    assert expected.sum() > 0.8
    assert ((found - expected).abs() < 5 * (expected / 4000).sqrt()).all()


def test_a_step_is_of_one_kind_as_often_as_it_says() -> None:
    answers = OwnAnswers(OWN.model_copy(update={"on_policy": 0.3}), None, DistillationCollator(0, []), seed=1)
    drawn = [answers.drawn(step) for step in range(2000)]
    assert drawn == [answers.drawn(step) for step in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, alpha=4.0)])
def test_a_student_learns_of_its_own_answers(folders: dict[str, Path], tmp_path: Path, lora: LoRA | None) -> None:
    """No label counts: the loss is that of the teachers' terms alone."""
    tokenizer = load_tokenizer(folders["student"])
    twin = load_model(folders["twin"], device=CPU), load_tokenizer(folders["twin"])
    source = OnlineSource(*twin, encoded(folders["twin"]), OWN)
    recipe = RECIPE.model_copy(update={"micro_batch": 3, "learning_rate": 1e-2, "steps": 12})
    _, curve = distill(
        load_model(folders["student"], device=CPU), tokenizer, encoded(folders["student"]), {"twin": source}, OWN,
        recipe, lora=lora, checkpoints=tmp_path, fingerprint="x", name="test",
    )  # fmt: skip
    assert all(row["loss"] == pytest.approx(0.5 * row["kl"] + 0.2 * row["uld"], rel=1e-4) for row in curve)
    assert curve[-1]["kl"] < 0.9 * curve[0]["kl"]


def test_who_can_not_judge_them_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    answers, rows = set_up(folders, {})
    packed = answers.collator(rows[:4]) | {"input_ids": torch.zeros(2, 50, dtype=torch.int64)}
    with pytest.raises(UserError, match="packed in rows can't be answered"):
        answers.write(load_model(folders["student"], device=CPU), packed, (0, 0, 0))

    class Kept(TeacherCache):
        def __init__(self) -> None:
            self.k, self.settings = 9, {"vocabulary_hash": "x"}

    tokenizer = load_tokenizer(folders["student"])
    with pytest.raises(UserError, match="cache of teacher 'twin' does not know what the student will say"):
        distill(
            load_model(folders["student"], device=CPU), tokenizer, encoded(folders["student"]),
            {"twin": CachedSource(Kept())}, Objective(uld=0.5, k=5, on_policy=0.5), RECIPE, lora=None,
            checkpoints=tmp_path, fingerprint="x", name="test",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "training", "words"),
    [
        ({"on_policy": 0.5}, {}, "there are none"),
        ({"uld": 0.5, "teachers": ["cached"], "on_policy": 0.5}, {}, "needs teachers that read online"),
        ({"uld": 0.5, "teachers": ["live"], "on_policy": 0.5}, {"processes": 2, "sharded": True}, "whole students"),
        ({"uld": 0.5, "teachers": ["live"], "on_policy": 0.5}, {"packing": 512}, "texts apart"),
    ],
)
def test_configs_that_can_not_be_are_refused(method: dict[str, Any], training: dict[str, Any], words: str) -> None:
    teachers = {"cached": {"model": "x"}, "live": {"model": "x", "online": True}}
    with pytest.raises(ValueError, match=words):
        Distill.model_validate(
            {"student": "s", "tasks": ["t"], "teachers": teachers, "methods": {"m": method}, "training": training}
        )
