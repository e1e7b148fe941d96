"""The papers' experiments as configs: they resolve, are pinned where a commit is known, and say what is ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT

from logitfusion.config.load import load_config

PAPER = ROOT / "config/paper"
CONFIGS = sorted(PAPER.glob("*.yaml"))
OVERLAYS = sorted((PAPER / "one-card").glob("*.yaml"))
COMMIT = re.compile(r"[0-9a-f]{40}")

# What no paper says, by config. The first line that gives such a value says that it is ours.
OURS = {
    "dlf-single": "dtype; id: TinyLlama; metric; max_gen_toks; train: 517; test: 1000; max_tokens; alpha",
    "dlf-multi": "dtype; id: TinyLlama; max_tokens; scale; selection: judged",
    "dlf-icl": "dtype; max_tokens; num_fewshot: 5",
    "gld": "id: Qwen/Qwen2.5-Coder; id: mistralai; {k:; epochs; batch_size: 16; learning_rate; uld:; gld: 0",
    "amu-imagenet": "seeds; views",
    "amu-11": "seeds; views; amu_classes",
    "amu-ood": "seeds; views",
}


def name_of(path: Path) -> str:
    return path.stem


def head_of(path: Path) -> str:
    """The comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])


def revisions(value: Any) -> Iterator[tuple[str, str | None]]:
    """All repositories of a config with the revision that is asked for."""
    if isinstance(value, dict):
        if value.get("source") == "hub" or {"dataset", "harness"} & value.keys():
            name = next(value[key] for key in ("id", "dataset", "harness") if key in value)
            yield name, value.get("revision")
        for inner in value.values():
            yield from revisions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from revisions(inner)


def test_there_is_a_config_for_every_experiment() -> None:
    assert {*OURS, "dlf-qwen"} == set(map(name_of, CONFIGS))


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_config_resolves_under_its_own_name(path: Path) -> None:
    assert load_config(path).run == path.stem


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_a_config_for_one_card_asks_for_one_and_changes_nothing_else(path: Path) -> None:
    base = load_config(PAPER / path.name)
    run = load_config(PAPER / path.name, path)
    assert run.run == base.run
    assert run.tasks == base.tasks
    assert run.models == base.models
    trained = [entry for entry in run.experts.values() if hasattr(entry, "processes")]
    if run.fusion:
        assert run.fusion.methods.keys() == base.fusion.methods.keys()
        assert {entry.gpus or run.fusion.gpus for entry in run.fusion.methods.values()} == {1}
    if run.distill:
        assert run.distill.methods == base.distill.methods
        trained.append(run.distill.training)
    assert {recipe.processes for recipe in trained} == {1}


def test_what_a_table_does_not_measure_is_not_shown_beside_it(tmp_path: Path) -> None:
    """Adapters beside its training of all weights, or a ViT beside its RN50, would be wrong numbers without a word."""
    overlays = [(path, PAPER / path.name) for path in OVERLAYS]
    for path in CONFIGS:  # commands that give a run another name
        for values in re.findall(r"--config run=(.*)", head_of(path)):
            pairs = (value.partition("=") for value in shlex.split(values)[1:])
            overlays.append((tmp_path / path.name, path))
            overlays[-1][0].write_text("\n".join(f"{key}: {value}" for key, _, value in pairs))
    assert len(overlays) > len(OVERLAYS)
    for path, base in overlays:
        assert load_config(base, path).report.published == (), path.name


def test_an_expert_of_another_run_is_used_again_as_the_first_lines_say(tmp_path: Path) -> None:
    text = (PAPER / "dlf-multi.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^#   (\w+: \{source: path.*)", text, re.M)
    name = line.partition(":")[0]
    edited = re.sub(rf"^  {name}: .*\n", "", text, flags=re.M).replace("\nmodels:\n", f"\nmodels:\n  {line}\n")
    (tmp_path / "edited.yaml").write_text(edited)
    run = load_config(tmp_path / "edited.yaml")
    assert name in run.models
    assert name not in run.experts


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_first_lines_say_what_a_stranger_has_to_know(path: Path) -> None:
    head = head_of(path)
    assert "arXiv" in head, "what it repeats"
    assert "snakemake --profile" in head, "how it is run"
    assert re.search(r"Licences|Models, tasks, licences|CC BY|MIT|terms", head), "under which terms"
    assert "ours" in head, "that not all of it is the paper's"
    for place in re.findall(r"config/paper/\S+\.yaml", head):
        assert (ROOT / place).is_file(), place


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_revisions_are_commits_where_one_is_known(path: Path) -> None:
    found = list(revisions(yaml.safe_load(path.read_text(encoding="utf-8"))))
    unpinned = {name for name, revision in found if not COMMIT.fullmatch(revision or "")}
    assert all(revision is not None for _, revision in found), "what is not pinned says so: main"
    known = {"BAAI/Infinity-Instruct", "KodCode/KodCode-V1", "drop"}
    known |= {"bbh_cot_fewshot_multistep_arithmetic_two", "bbh_cot_fewshot_causal_judgement"}
    assert unpinned <= known
    assert not unpinned or "Where a revision is main" in head_of(path)


def test_a_repository_has_one_commit_in_all_configs() -> None:
    """A slip of copying would show."""
    found: dict[str, set[str | None]] = {}
    for path in CONFIGS:
        for name, revision in revisions(yaml.safe_load(path.read_text(encoding="utf-8"))):
            data = {"mmlu_all": "mmlu"}.get(name, name)
            found.setdefault(data, set()).add(revision)
    assert {name: commits for name, commits in found.items() if len(commits) > 1} == {}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OURS.items() for value in values.split("; ")]
)
def test_what_a_paper_does_not_say_is_marked_as_ours(name: str, value: str) -> None:
    lines = (PAPER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if not line.startswith("#") and value in line), None)
    assert first is not None, "the config has no such value any more"
    assert "# ours" in first, first


def test_the_twin_on_open_models_has_no_gate_and_no_other_licence() -> None:
    """Nobody has to be asked: no Llama and no gated data."""
    run = load_config(PAPER / "dlf-qwen.yaml")
    assert {model.id.split("/")[0] for model in run.models.values()} == {"Qwen"}
    paper = load_config(PAPER / "dlf-multi.yaml")
    assert {name: task.harness for name, task in run.tasks.items()} == {
        name: task.harness for name, task in paper.tasks.items()
    }


@pytest.mark.parametrize("name", ["dlf-single", "dlf-multi"])
def test_the_papers_own_numbers_are_the_papers(name: str) -> None:
    """Batch 128, 2e-5 and 3 epochs for all weights; rank 64 and 1e-4 for LoRA; the grid; 0-shot."""
    run = load_config(PAPER / f"{name}.yaml")
    trained = [entry for entry in run.experts.values() if hasattr(entry, "epochs")]
    for entry in trained:
        assert (entry.epochs, entry.batch_size) == (3, 128)
        assert entry.learning_rate == (2e-5 if entry.method == "full" else 1e-4)
        assert entry.method == "full" or entry.lora.rank == 64
    for method in run.fusion.methods.values():
        if hasattr(method, "experts") and method.weights == "dynamic":
            assert (method.bounds, method.step, method.rule) == ((0.0, 2.0), 0.1, "grid")
    assert run.fusion.methods["dlf_7b"].selection == "one_hot" or name == "dlf-single"
    assert run.fusion.num_fewshot is None
    for task in run.tasks.values():
        assert task.num_fewshot == 0 or task.harness.endswith(("_0shot", "_rouge2", "_all"))


def test_the_mixture_is_the_papers() -> None:
    """52,000 of Infinity-Instruct, 39,000 of NuminaMath-1.5 and 39,000 of KodCode; contexts of 4,096 tokens."""
    run = load_config(PAPER / "gld.yaml")
    mixture = run.tasks["mixture"]
    counts = {part.dataset.split("/")[1]: part.share * mixture.train for part in mixture.texts}
    assert counts == pytest.approx({"Infinity-Instruct": 52000, "KodCode-V1": 39000, "NuminaMath-1.5": 39000})
    assert run.distill.training.max_tokens == run.distill.cache.max_tokens == 4096
    assert list(run.distill.methods["gld"].teachers) == ["qwen", "coder", "mistral"]


@pytest.mark.parametrize("name", ["amu-imagenet", "amu-11", "amu-ood"])
def test_amu_is_as_its_paper_has_it(name: str) -> None:
    from logitfusion.config.names import fewshot_method

    run = load_config(PAPER / f"{name}.yaml")
    settings = fewshot_method(run.clip, "amu")[1]
    assert (settings.alpha, settings.lambda_, settings.power, settings.reference) == (0.5, 0.35, 0.4, 250.0)
    assert (settings.epochs, settings.batch) == (50, 8)
    assert run.clip.encoder.model == "RN50"
