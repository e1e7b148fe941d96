"""Tasks of the harness: found, read, cut into splits, written, and opened as the very tasks that they were."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager
from small_tokenizers import framed
from test_text import make_model

from logitfusion.config.prompting import Prompting, TextFormat
from logitfusion.config.tasks import HarnessTask, Splits, check_inputs
from logitfusion.config.texts import TextTask
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.examples import ExampleEncoder
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.stages.tune import _make_examples
from logitfusion.tasks.definition import LIBRARY, data_files, definition_files, needs_hub, read_definition
from logitfusion.tasks.documents import OpenedTask, open_documents, write_documents
from logitfusion.tasks.find import find_folders
from logitfusion.tasks.harness import FEWSHOT_SEED, load_leaves
from logitfusion.tasks.metrics import find_metric
from logitfusion.tasks.prepare import cut_task, make_texts, read_task
from logitfusion.tasks.split import Cut

COLOURS = ["red", "green", "blue", "a long yellow one", "Grüße", "→"]
FUNCTIONS = """
def shout(rows):
    return rows.map(lambda row: {"question": row["question"].upper()})

def which(row):
    return row["answer"]

def filled(row):
    return [row["question"] + " is " + choice for choice in row["choices"]]

def after(row):
    return "indeed."
"""
DATA = {"dataset_path": "json", "fewshot_split": "train", "training_split": "train", "test_split": "test"}
CHOICE = {
    "output_type": "multiple_choice",
    "description": "Colours of {{word}}.\n",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean"}, {"metric": "acc_norm", "aggregation": "mean"}],
}
WORDS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}} =",
    "doc_to_target": "{{choices}}",  # several are right
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
    "filter_list": [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": "(.*)"}, {"function": "take_first"}]}
        for name in ("strict", "loose")
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
}
GUIDED = WORDS | {"gen_prefix": "The colour is", "doc_to_target": "word", "target_delimiter": "\n"}
LAST = {"output_type": "loglikelihood", "doc_to_text": "question", "doc_to_target": "{{' ' + word}}"}
LAST |= {"metric_list": [{"metric": "perplexity", "aggregation": "perplexity"}]}
WHOLE = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
WHOLE |= {"metric_list": [{"metric": "byte_perplexity", "aggregation": "weighted_perplexity"}]}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "choice": CHOICE,
    "words": WORDS,
    "guided": GUIDED,
    "last": LAST,
    "whole": WHOLE,
    "filled": CHOICE | {"doc_to_text": "!which", "doc_to_choice": "!filled", "doc_to_target": "!after"},
    "shouted": CHOICE | {"process_docs": "!shout"},
    "first": CHOICE | {"fewshot_config": {"sampler": "first_n"}, "fewshot_split": "test"},
    "own": CHOICE | {"training_split": "test"},
    "untaught": CHOICE | {"training_split": None, "fewshot_split": None},
}
GROUP = {"group": "all_of_it", "task": ["choice", {"task": "shouted", "task_alias": "loud"}]}
GROUP |= {"aggregate_metric_list": [{"metric": "acc_norm", "weight_by_size": True}], "metadata": {"version": 1}}


def documents(number: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "question": f"{place} " + " ".join(draw.choices(COLOURS, k=draw.randint(1, 4))),
            "choices": draw.sample(COLOURS, 3),
            "answer": draw.randrange(3),
            "word": draw.choice(COLOURS),
        }
        for place in range(number)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Definitions of all kinds on files of this machine."""
    root = tmp_path_factory.mktemp("definitions")
    (root / "functions.py").write_text(FUNCTIONS)
    files = {"train": write_lines(root / "train.jsonl", documents(30, 1))}
    files["test"] = write_lines(root / "test.jsonl", documents(12, 2))
    kwargs = {"data_files": files, "cache_dir": str(root / "cache")}
    for name, definition in DEFINITIONS.items():
        entry = {"task": name, **DATA, "dataset_kwargs": kwargs, "metadata": {"version": 1}, **definition}
        text = yaml.safe_dump(entry, allow_unicode=True, sort_keys=False)
        for function in ("which", "filled", "after", "shout"):
            text = text.replace(f"'!{function}'", f"!function functions.{function}")
        (root / f"{name}.yaml").write_text(text, encoding="utf-8")
    (root / "group.yaml").write_text(yaml.safe_dump(GROUP))
    return root


def written(folder: Path, place: Path, shots: bool = False, **entry: Any) -> tuple[Path, Cut]:
    """The folder of a task's documents, and how they were cut."""
    task = HarnessTask(include_path=str(folder), **entry).part(Splits)
    folders, loaded = read_task(task, shots=shots, scratch=place)
    cut = cut_task(task, loaded, task.harness)
    write_documents(place / "documents", task.harness, folders, loaded, cut, shots=shots)
    return place / "documents", cut


def refused(function: Any, *arguments: Any, **named: Any) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- the same requests as the harness ----------------------------------------------------------------------------


def requests(tasks: dict[str, Any]) -> list[tuple[str, int, Any]]:
    """Everything that a model would be asked, in the harness's order."""
    found = []
    for name, task in tasks.items():
        task.build_all_requests(limit=None, rank=0, world_size=1)
        found += [(name, request.doc_id, request.args) for request in task.instances]
    return found


def theirs(folder: Path, name: str, shots: int) -> list[tuple[str, int, Any]]:
    """What the harness asks, with the settings that ``lm_eval.simple_evaluate`` makes."""
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(name)["tasks"]
    for task in tasks.values():
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(FEWSHOT_SEED)
    return requests(tasks)


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", [*(name for name in DEFINITIONS if name != "own"), "all_of_it"])
def test_a_stored_task_asks_what_the_harness_asks(folder: Path, tmp_path: Path, name: str, shots: int) -> None:
    place, _ = written(folder, tmp_path, shots=bool(shots), harness=name)
    opened = open_documents(place, num_fewshot=shots)
    ours = requests(dict(opened.loaded["tasks"]))
    assert ours == theirs(folder, name, shots)
    assert [(one.task, one.index) for one in opened.documents] == list(dict.fromkeys((t, d) for t, d, _ in ours))


def test_a_group_is_opened_with_its_groups(folder: Path, tmp_path: Path) -> None:
    place, _ = written(folder, tmp_path, harness="all_of_it")
    opened = open_documents(place)
    assert opened.loaded["group_map"] == {"all_of_it": ["choice", "shouted"]}
    assert list(opened.loaded["tasks"]) == ["choice", "shouted"]
    assert opened.metric == ("acc_norm", "none"), "the group's own"


@pytest.mark.parametrize("name", ["choice", "words", "guided", "last", "filled"])
def test_what_is_learnt_is_what_is_asked(folder: Path, tmp_path: Path, name: str) -> None:
    """Context and completion of a document are those of the right choice's request, or of an example in a prompt."""
    place, _ = written(folder, tmp_path, shots=True, harness=name)
    opened = open_documents(place)
    (leaf,) = opened.loaded["tasks"].values()
    asked = requests({name: leaf})
    for document, (context, completion) in zip(opened.documents, opened.make_examples(), strict=True):
        mine = [arguments for _, place, arguments in asked if place == document.index]
        if leaf.OUTPUT_TYPE == "generate_until":
            assert [context] == [arguments[0] for arguments in mine]
        else:
            assert (context, completion) in mine
    shown = open_documents(place, num_fewshot=1).make_examples()
    if name in ("words", "choice"):
        prompts = {row["question"]: row for row in documents(30, 1)}
        question = next(text for text in prompts if f"{text} =" in shown[0][0] or f"Q: {text}\n" in shown[0][0])
        answer = prompts[question]["choices"][prompts[question]["answer"] if name == "choice" else 0]
        assert f" {answer}\n\n" in shown[0][0], "as examples of prompts show it"


@pytest.mark.parametrize("name", ["choice", "first"])
def test_more_examples_than_there_are_is_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    place, _ = written(folder, tmp_path, shots=True, harness=name)
    with pytest.raises(UserError, match=f"{name}' has fewer examples for its prompts than num_fewshot asks for; lower"):
        open_documents(place, num_fewshot=900).make_examples()


def test_chats_have_the_answer_alone_in_the_last_turn(folder: Path, tmp_path: Path) -> None:
    place, _ = written(folder, tmp_path, harness="choice")
    opened = open_documents(place)

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"

    plain, chats = opened.make_examples(), opened.make_examples(chat_template=render, system="Be brief.")
    assert all(context.startswith("<system>Be brief.\n\nColours of") for context, _ in chats)
    assert all(context.endswith("A:<assistant>") for context, _ in chats)
    assert [completion for _, completion in chats] == [completion.removeprefix(" ") for _, completion in plain]


@pytest.mark.parametrize("name", ["words", "choice", "guided"])
def test_methods_are_tuned_on_what_a_chat_learns_to_say(folder: Path, tmp_path: Path, name: str) -> None:
    """A template's white space before an answer is generated with it; likelihoods are asked for without it."""
    tokenizer = framed(tiny_tokenizer(), ["<s>"], [])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] + ':' }}{{ ' ' + m['content'] + eos_token }}"
    )
    tokenizer.chat_template += "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    lm = FusedLM(make_model(tokenizer), tokenizer=tokenizer)
    place, _ = written(folder, tmp_path, harness=name)
    opened, job = open_documents(place), SimpleNamespace(prompting=Prompting(template="chat"))
    (leaf,) = opened.loaded["tasks"].values()
    encoder = ExampleEncoder(tokenizer, TextFormat(template="chat"))
    for document, (context, completion) in zip(opened.documents, _make_examples(opened, job, lm), strict=True):
        row = leaf.eval_docs[document.index]
        if name == "words":
            ((turn,),) = encoder.turns([(leaf.doc_to_text(row), row["choices"][0])])
            assert list(lm.encoder.example(context, completion)) == [turn.given, turn.tokens.ids]
        else:
            assert completion == {"choice": row["choices"][row["answer"]], "guided": " " + row["word"]}[name]


# ---- splits ----------------------------------------------------------------------------------------------------


def keys(rows: Any) -> list[str]:
    return [" ".join(row["prompt"].lower().split()) for row in rows]


def cut_keys(cut: Cut) -> dict[str, list[str]]:
    return {name: keys(make_texts(getattr(cut, name))) for name in ("test", "validation", "train")}


@pytest.mark.parametrize("name", ["choice", "own", "all_of_it"])
def test_splits_share_no_prompt_and_have_their_sizes(folder: Path, tmp_path: Path, name: str) -> None:
    _, cut = written(folder, tmp_path, harness=name, train=5, validation=3, test=4)
    found = cut_keys(cut)
    assert {split: len(rows) for split, rows in found.items()} == {
        "test": 8 if name == "all_of_it" else 4,
        "validation": 3,
        "train": 5,
    }
    test, validation, train = map(set, found.values())
    assert not test & (validation | train)
    assert not validation & train


def test_the_test_is_the_beginning_of_the_evaluation_split(folder: Path, tmp_path: Path) -> None:
    _, some = written(folder, tmp_path / "some", harness="choice", test=5)
    _, everything = written(folder, tmp_path / "all", harness="choice")
    assert [one.index for one in some.test] == list(range(5))
    assert [one.index for one in everything.test] == list(range(12))


@pytest.mark.parametrize("name", ["choice", "own"])
def test_the_train_size_moves_neither_test_nor_validation(folder: Path, tmp_path: Path, name: str) -> None:
    sizes = {"harness": name, "validation": 2, "test": 3}
    few, many = (cut_keys(written(folder, tmp_path / str(n), train=n, **sizes)[1]) for n in (1, 6))
    assert (few["test"], few["validation"]) == (many["test"], many["validation"])
    assert many["train"][:1] == few["train"]


def test_another_seed_draws_other_documents(folder: Path, tmp_path: Path) -> None:
    sizes = {"harness": "own", "train": 4, "validation": 3, "test": 4}
    one, same, other = (
        cut_keys(written(folder, tmp_path / str(place), split_seed=seed, **sizes)[1])
        for place, seed in enumerate((None, 0, 1))
    )
    assert one == same
    assert one != other


def test_a_split_that_is_learnt_from_is_tested_in_part(folder: Path, tmp_path: Path) -> None:
    """Without a size the test has what is left."""
    _, cut = written(folder, tmp_path, harness="own", train=4, validation=3)
    assert len(cut.test) == 12 - 4 - 3


def test_examples_of_prompts_are_never_tested_or_validated(folder: Path, tmp_path: Path) -> None:
    """Where documents were cut of the evaluation split, examples come from what is neither."""
    place, cut = written(folder, tmp_path, shots=True, harness="own", train=2, validation=2, test=4, split_seed=3)
    (entry,) = (leaf for leaf in open_documents(place, num_fewshot=1).loaded["tasks"].values())
    assert entry.config.fewshot_split == "train"
    assert len(entry.sampler.df) == 30, "another split stays whole"
    (folder / "both.yaml").write_text((folder / "own.yaml").read_text().replace("task: own", "task: both"))
    text = (folder / "both.yaml").read_text().replace("fewshot_split: train", "fewshot_split: test")
    (folder / "both.yaml").write_text(text)
    place, cut = written(folder, tmp_path / "both", shots=True, harness="both", train=2, validation=2, test=4)
    (leaf,) = open_documents(place, num_fewshot=1).loaded["tasks"].values()
    kept = {row["question"] for row in leaf.sampler.df}
    assert len(kept) == 12 - 4 - 2
    assert not kept & {one.document["question"] for one in (*cut.test, *cut.validation)}


def test_a_validation_document_is_no_example_for_itself(folder: Path, tmp_path: Path) -> None:
    place, cut = written(folder, tmp_path, shots=True, harness="choice", validation=6)
    (leaf,) = open_documents(place, split="validation", num_fewshot=2).loaded["tasks"].values()
    shown = {row["question"] for row in leaf.sampler.df}
    assert len(shown) == 30 - 6
    assert not shown & {one.document["question"] for one in cut.validation}


def test_training_documents_with_a_tested_prompt_are_left_out(folder: Path, tmp_path: Path) -> None:
    rows = documents(6, 5)
    files = {"train": write_lines(tmp_path / "a.jsonl", rows), "test": write_lines(tmp_path / "b.jsonl", rows[:2])}
    entry = {"task": "leaks", **DATA, "dataset_kwargs": {"data_files": files}, **CHOICE}
    (tmp_path / "leaks.yaml").write_text(yaml.safe_dump(entry, allow_unicode=True))
    _, cut = written(tmp_path, tmp_path, harness="leaks", train=3, validation=1, split_seed=0)
    found = cut_keys(cut)
    assert not set(found["test"]) & {*found["train"], *found["validation"]}
    words = refused(written, tmp_path, tmp_path / "more", harness="leaks", train=4, validation=1)
    assert "'leaks' asks for 4 documents for train, and there are 3" in words


@pytest.mark.parametrize("split", ["train", "test"])
def test_documents_without_a_prompt_are_told_apart_by_their_text(tmp_path: Path, split: str) -> None:
    """A text whose likelihood is asked has nothing in front of it."""
    rows = [{"text": f"text {number}"} for number in range(8)]
    files = {"train": write_lines(tmp_path / "a.jsonl", rows), "test": write_lines(tmp_path / "b.jsonl", rows[:6])}
    entry = {"task": "texts", **DATA, "dataset_kwargs": {"data_files": files}, "output_type": "loglikelihood_rolling"}
    entry |= {"doc_to_text": "", "doc_to_target": "{{text}}", "metric_list": [{"metric": "word_perplexity"}]}
    (tmp_path / "texts.yaml").write_text(yaml.safe_dump(entry))
    _, cut = written(tmp_path, tmp_path, harness="texts", train=2, validation=1, test=3, training_split=split)
    learnt, tested = ({one.document["text"] for one in part} for part in (cut.train + cut.validation, cut.test))
    assert (len(learnt), len(tested), learnt & tested) == (3, 3, set())


def test_a_split_that_is_tested_whole_leaves_no_examples(folder: Path, tmp_path: Path) -> None:
    text = (folder / "own.yaml").read_text().replace("fewshot_split: train", "fewshot_split: test")
    (tmp_path / "whole.yaml").write_text(text.replace("task: own", "task: whole"))
    place, _ = written(tmp_path, tmp_path, shots=True, harness="whole")
    assert len(open_documents(place, num_fewshot=0).documents) == 12
    assert "all are tested or validated; lower num_fewshot" in refused(open_documents, place, num_fewshot=1)


@pytest.mark.parametrize(
    "source",
    [
        {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "{root}/te*.jsonl"}}},
        {"dataset_path": "json", "dataset_kwargs": {"data_files": "*.jsonl", "data_dir": "{root}"}},
        {"dataset_path": "json", "dataset_kwargs": {"data_dir": "{root}"}},
        {"dataset_path": "{root}"},
    ],
    ids=["pattern", "both", "data_dir", "dataset_path"],
)
def test_the_files_of_a_pattern_or_a_folder_are_those_of_the_task(tmp_path: Path, source: dict[str, Any]) -> None:
    """So that an edit of any of them reruns what depends on it."""
    (tmp_path / "rows").mkdir()
    path = write_lines(tmp_path / "rows/test.jsonl", documents(3, 1))
    text = yaml.safe_dump({"task": "many", "test_split": "test", **source, **CHOICE})
    (tmp_path / "many.yaml").write_text(text.replace("{root}", str(tmp_path / "rows")))
    assert data_files("many", str(tmp_path)) == [path]
    assert not needs_hub("many", str(tmp_path))


def write_group(folder: Path, name: str, *members: Any) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"group": name, "task": list(members)}))


def test_a_group_of_ours_consists_of_tasks_of_the_harness(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "choice.yaml").write_text((folder / "choice.yaml").read_text())
    write_group(tmp_path, "mixed", "choice", {"group": "inside", "task": ["gsm8k"]})
    write_group(tmp_path, "outer", "mixed")
    for name in ("mixed", "outer"):
        folders = find_folders(name, str(tmp_path))
        assert folders == ["<library>", str(tmp_path), "<harness>/gsm8k"]
        assert list(load_leaves(name, folders)["tasks"]) == ["choice", "gsm8k"]
        assert needs_hub(name, str(tmp_path))
        assert {"choice.yaml", "mixed.yaml"} <= {path.name for path in definition_files(name, str(tmp_path))}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["chioce"], "no task 'chioce' in .* 'wrong' consists of .*did you mean choice"),
        ([{"group": "inside", "task": ["chioce"]}], "no task 'chioce' in .*did you mean choice"),
        ([{"task": "inline", "dataset_path": "json"}], "no task 'inline' in .* needs files of its own"),
        ([], "'wrong' consists of nothing"),
        (["wrong"], "'wrong' can't be read"),
    ],
)
def test_a_wrong_member_of_a_group_is_named(folder: Path, tmp_path: Path, members: list[Any], words: str) -> None:
    (tmp_path / "choice.yaml").write_text((folder / "choice.yaml").read_text())
    write_group(tmp_path, "wrong", *members)
    with pytest.raises(UserError, match=words):
        load_leaves("wrong", find_folders("wrong", str(tmp_path)))


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gsm9k", "no task 'gsm9k': did you mean gsm8k"),
        ("squadv2", "is a class of Python.*logitfusion evaluate runs"),
        ("cnn_dailymail", "is one of unitxt"),
        ("humaneval", "runs the code that a model writes.*--confirm-run-unsafe-code"),
        ("mmmu_val_accounting", "asks about images or sounds"),
    ],
)
def test_tasks_that_no_workflow_can_use_say_so(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_leaves(name, find_folders(name, None))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"harness": "untaught", "train": 2}, "has no training split: name one .* training_split"),
        ({"harness": "choice", "train": 2, "training_split": "dev"}, r"no split 'dev' \(it has"),
        ({"harness": "own", "train": 9, "validation": 2, "test": 2}, "asks for 13 documents .* has 12 distinct"),
        ({"harness": "choice", "validation": 31}, "31 documents for validation, and there are 30"),
    ],
)
def test_sizes_that_can_not_be_had_are_one_sentence(
    folder: Path, tmp_path: Path, entry: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        written(folder, tmp_path, **entry)


MEAN = {"metric": "exact_match", "aggregation": "mean"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric_list": [MEAN | {"aggregation": "meen"}]}, "unknown aggregation 'meen'"),
        ({"metric_list": [MEAN | {"metric": "exact_mtach"}]}, "metric 'exact_mtach' of the task 'wrong' is unknown"),
        ({"metric_list": [{"metric": "exact_mtach"}]}, "metric 'exact_mtach' of the task 'wrong' is unknown"),
        ({"process_docs": "!none"}, "'wrong' has nothing to evaluate"),
        ({"fewshot_split": "dev"}, "the split 'dev', and its data set has test, train; say num_fewshot: 0"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "regexx"}]}]}, "KeyError: Unknown filter 'regexx'"),
    ],
)
def test_a_wrong_definition_is_refused_before_anything_is_decoded(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    (tmp_path / "functions.py").write_text("def none(rows):\n    return rows.select([])\n")
    entry = yaml.safe_load((folder / "words.yaml").read_text()) | {"task": "wrong"} | changes
    text = yaml.safe_dump(entry).replace("'!none'", "!function functions.none")
    (tmp_path / "wrong.yaml").write_text(text)
    assert words in refused(written, tmp_path, tmp_path, shots=True, harness="wrong")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no_such_folder" in refused(find_folders, "choice", str(tmp_path / "no_such_folder"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "absent.jsonl does not exist"),
        ("", "absent.jsonl is empty"),
        ("{}\n{", "absent.jsonl, line 2, is not JSON (column 2: Expecting property name enclosed in double quotes)"),
    ],
)
def test_a_file_of_documents_that_can_not_be_read_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "absent.jsonl"
    if content is not None:
        path.write_text(content)
    kwargs = {"data_files": {"test": str(path)}}
    entry = {"task": "gone", "dataset_path": "json", "test_split": "test", "dataset_kwargs": kwargs, **CHOICE}
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump(entry))
    assert words in refused(written, tmp_path, tmp_path, harness="gone")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("choice", {"doc_to_choice": None}, "'choice' has no doc_to_choice"),
        ("choice", {"doc_to_target": "question"}, "which is none of its choices"),
        ("choice", {"doc_to_target": -1}, "choice -1 is right, of 3"),
        ("words", {"doc_to_target": "wrod"}, "doc_to_target: wrod, and its documents have no such field (they have "),
        ("words", {"doc_to_text": "qestion"}, "doc_to_text: qestion, and its documents have no such field"),
        ("words", {"metric_list": []}, "'words' has no metrics"),
        ("words", {"metric_list": [{"metric": "exact_mach"}]}, "is unknown, or can't be loaded without a package"),
    ],
)
def test_a_definition_by_which_nothing_could_be_right_is_refused(
    folder: Path, tmp_path: Path, name: str, change: dict[str, Any], words: str
) -> None:
    """The harness would find all answers wrong, without a word."""
    definition = yaml.safe_load((folder / f"{name}.yaml").read_text()) | change
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(definition))

    def prepare() -> None:
        place, _ = written(tmp_path, tmp_path / "made", harness=name)
        open_documents(place)

    assert words in refused(prepare)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: mine\ninclude: other.yaml", "mine.yaml includes itself"),
        ("task: mine\ninclude: 3", "includes 3, which is no file's name"),
        ("task: mine\ntask: yours", "line 2, has the key 'task' a second time"),
        ("task: mine\ninclude: gone.yaml", "gone.yaml does not exist"),
    ],
)
def test_a_definition_that_can_not_be_read_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("include: mine.yaml")
    assert words in refused(read_definition, tmp_path / "mine.yaml")


def test_a_definition_with_a_mistake_is_named_and_no_other_of_its_name_is_used(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: gsm8k\n  doc_to_text: [\n")
    assert f"The task definition {tmp_path / 'mine.yaml'} can't be read" in refused(
        find_folders, "gsm8k", str(tmp_path)
    )


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, ("exact_match", "strict")),
        ("exact_match", ("exact_match", "strict")),
        ("exact_match,loose", ("exact_match", "loose")),
    ],
)
def test_a_metric_is_found_by_name_and_filter(
    folder: Path, tmp_path: Path, asked: str | None, found: tuple[str, str]
) -> None:
    opened: OpenedTask = open_documents(written(folder, tmp_path, harness="words")[0], metric=asked)
    assert opened.metric == found
    assert "did you mean exact_match,loose?" in refused(find_metric, "words", opened.loaded, "exact_match,lose")


def test_documents_of_another_definition_are_not_opened(tmp_path: Path, folder: Path) -> None:
    """Prompts would be others than those that were learnt."""
    mine = tmp_path / "mine"
    mine.mkdir()
    text = (folder / "choice.yaml").read_text()
    (mine / "choice.yaml").write_text(text)
    place, _ = written(mine, tmp_path, harness="choice")
    open_documents(place)
    (mine / "choice.yaml").write_text(text.replace("Q: ", "Question: "))
    assert "has changed since" in refused(open_documents, place)


def test_a_split_without_documents_is_not_opened(folder: Path, tmp_path: Path) -> None:
    place, _ = written(folder, tmp_path, harness="choice")
    assert "no validation documents" in refused(open_documents, place, split="validation")
    assert "no examples for prompts" in refused(open_documents, place, num_fewshot=1)


# ---- what a workflow knows before any job runs ---------------------------------------------------------------------


def test_files_of_a_task_are_its_definitions_its_code_and_its_documents(folder: Path) -> None:
    assert {path.name for path in definition_files("filled", str(folder))} == {"filled.yaml", "functions.py"}
    assert {Path(path).name for path in data_files("filled", str(folder))} == {"train.jsonl", "test.jsonl"}
    named = {path.name for path in definition_files("all_of_it", str(folder))}
    assert named == {"group.yaml", "choice.yaml", "shouted.yaml", "functions.py"}


def test_files_that_are_not_there_are_refused_before_any_job(tmp_path: Path) -> None:
    """Where results are there already, Snakemake takes a missing file for one that has not changed."""
    for name in ("a", "b"):
        write_lines(tmp_path / f"{name}.jsonl", documents(4, 1))
    entry = {"task": "lines", **CHOICE, **DATA, "dataset_path": "json"}
    entry["dataset_kwargs"] = {"data_files": {"train": str(tmp_path / "*.jsonl"), "test": str(tmp_path / "c.json")}}
    (tmp_path / "lines.yaml").write_text(yaml.safe_dump(entry))
    task = HarnessTask(harness="lines", include_path=str(tmp_path))
    assert {Path(path).name for path in task.files} == {"lines.yaml", "a.jsonl", "b.jsonl", "c.json"}
    assert f"{tmp_path / 'c.json'} of tasks.mine does not exist" in refused(check_inputs, {"mine": task})
    texts = TextTask(texts=[{"path": str(tmp_path / "d.jsonl"), "messages": "turns"}], train=1)
    assert f"{tmp_path / 'd.jsonl'} of tasks.chats does not exist" in refused(check_inputs, {"chats": texts})
    (tmp_path / "c.json").touch()
    check_inputs({"mine": task})


def test_only_documents_of_the_hub_are_fetched(folder: Path) -> None:
    assert needs_hub("gsm8k", None)
    assert not needs_hub("all_of_it", str(folder))
    assert not needs_hub("sums", None)


def test_every_definition_of_the_library_loads() -> None:
    for path in sorted(LIBRARY.glob("*.yaml")):
        assert load_leaves(path.stem, find_folders(path.stem, None))["tasks"], path
