"""Experts that were trained by LoRA stay adapters: read beside their base as the merged model would be."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from checkout import ROOT, copy_checkout, plans
from harness_tasks import write_tasks
from recorded import store
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.artefact import read_rows, write_artefact
from logitfusion.config.experts import Expert
from logitfusion.config.jobs.distill import StudentJob
from logitfusion.config.jobs.fusion import DecodeJob
from logitfusion.config.loading import Loading
from logitfusion.config.models import PathModel, RandomModel
from logitfusion.config.section import parse
from logitfusion.config.training import LoRA, Recipe
from logitfusion.errors import UserError
from logitfusion.files import read_json, write_json, write_jsonl
from logitfusion.fusion import FusedLM
from logitfusion.integrity import RECORD
from logitfusion.models import adapters, merge
from logitfusion.models.adapters import load_expert
from logitfusion.models.checkpoint import is_adapter
from logitfusion.models.identity import hash_model, hash_tokenizer
from logitfusion.models.load import count_bytes, describe, load_model, load_tokenizer, save_model
from logitfusion.models.merge import merge_experts
from logitfusion.models.source import from_path
from logitfusion.stages import decode, expert, model, student
from logitfusion.stages._models import Models
from logitfusion.training.finetune import finetune
from logitfusion.training.loop import merge_adapters

CPU = torch.device("cpu")
ROWS = [{"prompt": f"{number} =", "completion": f" {number**2}"} for number in range(16)]
RECIPE = {"steps": 6, "batch_size": 8, "learning_rate": 2e-2, "precision": "fp32"}
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8}}
KINDS: dict[str, dict[str, Any]] = {
    "first": LORA | {"seed": 0},
    "second": LORA | {"seed": 1},
    "full": {"seed": 0},
}


class Run(NamedTuple):
    """A run's folder with a base, experts of it and the text that they were trained on."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "models/base"

    @property
    def text(self) -> Path:
        return self.folder / "tasks/squares/train.jsonl"

    def expert(self, name: str) -> Path:
        return self.folder / "experts" / name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("trained") / "run")
    write_jsonl(run.text, ROWS)
    for name, seed in (("base", 1), ("large", 2)):
        entry = RandomModel(source="random", hidden_size=32, layers=2, seed=seed)
        model.main(make_arguments(run, run.folder / "models" / name), entry)
    for name, kind in KINDS.items():
        job = parse(Expert, json.dumps(RECIPE | {"base": "base", "tasks": ["squares"]} | kind))
        expert.main(make_arguments(run, run.expert(name), parts=[]), job)
    return run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A copy, moved from where it was made."""
    return Run(Path(shutil.copytree(made.folder, tmp_path / "moved")))


def make_arguments(run: Run, output: Path, **others: Any) -> Namespace:
    known = {"name": output.name, "base": run.base, "text": [run.text], "checkpoints": output.with_suffix(".kept")}
    return Namespace(**known | {"output": output} | others)


@pytest.fixture(scope="module")
def merged(made: Run) -> dict[str, PreTrainedModel]:
    """What the same trainings give with the adapters merged into the model that was trained."""
    found = {}
    for name, kind in KINDS.items():
        trained, _ = finetune(
            load_model(made.base, device=CPU), load_tokenizer(made.base), ROWS,
            Recipe(**RECIPE, seed=kind["seed"]), lora=LoRA(**kind["lora"]) if "lora" in kind else None,
            checkpoints=made.folder / "kept", fingerprint="", name=name,
        )  # fmt: skip
        shutil.rmtree(made.folder / "kept", ignore_errors=True)
        found[name] = merge_adapters(trained, name)
    return found


def assert_equal(found: PreTrainedModel, expected: PreTrainedModel) -> None:
    """To the last bit."""
    assert_equal_tensors(found.state_dict(), expected.state_dict())


def assert_equal_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


# ---- the folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_is_what_was_trained(run: Run, merged: dict[str, PreTrainedModel], name: str) -> None:
    """In fp32 an adapter is merged where it is read, and not one bit of any weight is another."""
    found = load_expert(run.expert(name), device=CPU)
    assert type(found) is type(merged[name])
    assert_equal(found, merged[name])
    base = load_model(run.base, device=CPU).state_dict()
    assert any(not torch.equal(value, base[key]) for key, value in found.state_dict().items())


def test_an_adapter_takes_its_own_space_alone(run: Run) -> None:
    folder = run.expert("first")
    assert is_adapter(folder)
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "../../models/base"
    assert {path.name for path in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert (folder / "adapter_model.safetensors").stat().st_size < count_bytes(load_model(run.base)) / 2
    assert hash_tokenizer(folder) == hash_tokenizer(run.base)
    known, facts = read_json(folder / RECORD), describe(load_model(run.base))
    assert {name: known[name] for name in facts} == facts
    assert (folder / "curve.csv").is_file()


def test_an_adapter_is_made_twice_alike(made: Run, run: Run) -> None:
    job = parse(Expert, json.dumps(RECIPE | {"base": "base", "tasks": ["squares"]} | KINDS["first"]))
    expert.main(make_arguments(run, run.expert("again"), parts=[]), job)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run.expert("again") / name).read_bytes() == (made.expert("first") / name).read_bytes()


def test_which_model_it_is_depends_on_its_base(run: Run) -> None:
    before = hash_model(run.expert("first"))
    assert before != hash_model(run.expert("second"))
    shutil.rmtree(run.base)
    shutil.copytree(run.folder / "models/large", run.base)
    assert hash_model(run.expert("first")) != before


def test_an_adapter_without_its_base_is_refused(run: Run) -> None:
    shutil.rmtree(run.base)
    for use in (load_expert, FusedLM.from_folders):
        with pytest.raises(UserError, match=r"first was trained from the model in .*base, which is not there: bring"):
            use(run.expert("first"))


def test_an_adapter_beside_another_base_is_refused(run: Run) -> None:
    shutil.rmtree(run.base)
    shutil.copytree(run.folder / "models/large", run.base)
    for use in (load_expert, FusedLM.from_folders, lambda folder: Models({"first": folder}, Loading())):
        with pytest.raises(UserError, match=r"first was trained from another model than .*base holds now"):
            use(run.expert("first"))


def test_a_link_to_an_adapter_is_read_beside_the_base_of_its_run(
    run: Run, merged: dict[str, PreTrainedModel], tmp_path: Path
) -> None:
    link = tmp_path / "another/experts/mine"
    link.parent.mkdir(parents=True)
    link.symlink_to(run.expert("first"))
    shutil.copytree(run.folder / "models/large", tmp_path / "another/models/base")  # beside the link, and not its base
    assert_equal(load_expert(link, device=CPU), merged["first"])
    (tmp_path / "experts").symlink_to(run.folder / "experts")
    assert_equal(load_expert(tmp_path / "experts/first", device=CPU), merged["first"])


def test_a_changed_adapter_is_refused(run: Run) -> None:
    path = run.expert("first") / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"are damaged \(adapter_model"):
        load_expert(run.expert("first"))


@pytest.fixture
def half(run: Run, tmp_path: Path) -> Path:
    """An adapter of a base that is kept in half precision."""
    save_model(load_model(run.base, device=CPU), load_tokenizer(run.base), tmp_path / "half", torch.bfloat16)
    folder = tmp_path / "adapter"
    shutil.copytree(run.expert("first"), folder)
    kept = read_json(folder / RECORD)
    del kept["base_weights"]
    kept["files"] = [file for file in kept["files"] if file["name"] != "adapter_config.json"]
    del kept["digest"]
    write_artefact(folder / RECORD, kept)
    settings = read_json(folder / "adapter_config.json") | {"base_model_name_or_path": "../half"}
    write_json(folder / "adapter_config.json", settings)
    return folder


def test_beside_a_base_in_half_precision_an_adapter_stays(half: Path, merged: dict[str, PreTrainedModel]) -> None:
    """A sum of weights would be rounded; who trains further gets that."""
    beside = load_expert(half, device=CPU, dtype="auto")
    assert any("lora_A" in name for name, _ in beside.named_parameters())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        exact, found = merged["first"](ids).logits, beside(ids).logits.float()
        base = load_model(half.parent / "half", device=CPU)(ids).logits
    assert (found - exact).norm() < 0.2 * (base - exact).norm()
    plain = load_expert(half, merge=True, device=CPU, dtype=torch.bfloat16)
    assert plain.state_dict().keys() == merged["first"].state_dict().keys()
    assert all(value.requires_grad for value in plain.parameters())


def test_of_a_base_in_fp32_the_sum_is_rounded_once(
    run: Run, merged: dict[str, PreTrainedModel], tmp_path: Path
) -> None:
    """To the last bit what a merged model that was saved in fp32 gives in half precision."""
    save_model(merged["first"], load_tokenizer(run.base), tmp_path / "whole")
    expected = load_model(tmp_path / "whole", device=CPU, dtype=torch.bfloat16)
    found = load_expert(run.expert("first"), device=CPU, dtype=torch.bfloat16)
    assert_equal(found, expected)
    assert_equal_tensors(dict(found.named_buffers()), dict(expected.named_buffers()))
    assert found.dtype == torch.bfloat16
    assert not found.training


def test_a_path_to_an_adapter_of_another_run_is_written_whole(
    run: Run, merged: dict[str, PreTrainedModel], tmp_path: Path
) -> None:
    target = tmp_path / "other/models/expert"
    model.main(Namespace(name="expert", output=target, checkpoints=tmp_path / "kept"), PathModel(
        source="path", path=str(run.expert("first"))
    ))  # fmt: skip
    shutil.rmtree(run.folder)
    assert_equal(load_model(target, device=CPU), merged["first"])


# ---- who reads it -------------------------------------------------------------------------------------------------


def decode_job(models: list[str], weights: float | str = 1.0) -> DecodeJob:
    task = {"models": models, "num_fewshot": None, "generation_kwargs": {"max_gen_toks": 6}}
    options = {"weights": weights} if len(models) > 1 else {}
    method = {"options": options, "prompting": {}, "decoding": {"batch_size": 4, "seed": 0}}
    given = {"methods": {"any": method | {"tasks": {"toy_words": task}}}, "loading": {}, "split": "test", "shards": 1}
    return parse(DecodeJob, json.dumps(given))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    return store(folder / "toy_words", "toy_words", write_tasks(folder / "definitions"))


def decode_text(documents: Path, folders: list[Path], job: DecodeJob, output: Path) -> list[list[int]]:
    decode.main(Namespace(documents=[documents], models=folders, shard=0, output=output, tuned=[], protocol=None), job)
    return [row["token_ids"] for row in read_rows(output)]


@pytest.mark.parametrize(
    ("experts", "weights"), [([], 1.0), (["first"], 1.0), (["first", "second"], "dynamic"), (["first", "full"], 0.5)]
)
def test_a_stage_decodes_as_with_merged_experts(
    run: Run,
    merged: dict[str, PreTrainedModel],
    documents: Path,
    tmp_path: Path,
    experts: list[str],
    weights: float | str,
) -> None:
    whole = tmp_path / "whole"
    for name in experts or ["first"]:
        (whole / name).mkdir(parents=True)
        save_model(merged[name], load_tokenizer(run.base), whole / name)
    names = ["large", "base", *experts] if experts else ["first"]
    steering = [run.folder / "models/large", run.base] if experts else []
    ours = [*steering, *(run.expert(name) for name in experts or ["first"])]
    theirs = [*steering, *(whole / name for name in experts or ["first"])]
    job = decode_job(names, weights)
    found = decode_text(documents, [*ours, *([] if experts else [run.base])], job, tmp_path / "ours.jsonl")
    assert found == decode_text(documents, theirs, job, tmp_path / "theirs.jsonl")
    assert len(found) == 9
    assert all(found)


def test_adapters_of_one_base_share_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is in memory once, and read with its experts in one pass; beside a whole expert each is its own."""
    opened: list[str] = []

    def count(folder: Path, **options: Any) -> PreTrainedModel:
        opened.append(Path(folder).name)
        return load_model(folder, **options)

    monkeypatch.setattr(adapters, "load_model", count)
    folders = {path.name: path for path in (run.folder / "models/large", run.base, *map(run.expert, KINDS))}
    models = Models(folders, Loading())
    large, _, experts = models.open(["large", "base", "first", "second"])
    assert opened == ["large", "base"]
    assert all(isinstance(name, str) for name in experts)
    models.open(["large", "base", "first", "second"])
    assert opened == ["large", "base"]
    again = models.open(["large", "base", "first", "full"])
    assert again.large is large
    assert sorted(opened[2:]) == ["base", "base", "full"]
    assert not any(isinstance(one, str) for one in again.experts)


def test_a_merged_expert_is_the_sum_of_changes(
    run: Run, merged: dict[str, PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of adapters and whole experts, as if all were whole, without a second model in memory."""
    base = load_model(run.base, device=CPU).state_dict()
    expected = {name: value.clone() for name, value in base.items()}
    for name in KINDS:
        for key, value in merged[name].state_dict().items():
            expected[key] += 0.4 * (value - base[key])
    expected["lm_head.weight"] = expected["model.embed_tokens.weight"]  # tied, and listed twice
    opened: list[Path] = []

    def count(folder: Path, **options: Any) -> PreTrainedModel:
        opened.append(folder)
        return load_model(folder, **options)

    monkeypatch.setattr(merge, "load_model", count)
    found = merge_experts(run.base, [run.expert(name) for name in KINDS], 0.4)
    assert opened == [run.base]
    assert type(found) is type(merged["full"])
    assert_equal_tensors(found.state_dict(), expected)
    assert not any("lora" in name for name, _ in found.named_modules())


def test_a_student_is_an_adapter_and_may_begin_as_one(run: Run, tmp_path: Path) -> None:
    """The student of a student: its base is an adapter, which is merged before another is trained."""
    job = parse(StudentJob, json.dumps({
        "method": {}, "training": {**RECIPE, **LORA, "micro_batch": 8}, "texts": None,
    }))  # fmt: skip
    (examples := tmp_path / "train.jsonl").write_text(run.text.read_text())
    chain = [run.base]
    for name in ("sft.0", "further.0"):
        output = run.folder / "distill/students" / name
        read = {key: [] for key in ("caches", "teachers", "tokenizers", "validation", "documents")}
        read |= {"base": [*reversed(chain)], "text": [examples]}
        arguments = make_arguments(run, output, seed=0, **read)
        student.main(arguments, job)
        chain.append(output)
    assert read_json(chain[1] / "adapter_config.json")["base_model_name_or_path"] == "../../../models/base"
    assert read_json(chain[2] / "adapter_config.json")["base_model_name_or_path"] == "../sft.0"
    models = [load_expert(folder, device=CPU).state_dict() for folder in chain]
    for one, two in ((0, 1), (1, 2)):
        assert models[one].keys() == models[two].keys()
        assert any(not torch.equal(models[one][name], models[two][name]) for name in models[one])
    assert len({hash_model(folder) for folder in chain}) == 3


def test_whoever_reads_an_adapter_has_its_base(tmp_path: Path) -> None:
    """As inputs of the rules: jobs wait for it, and on a cluster it is brought along."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    del config["clip"]
    config["experts"]["ceiling"] |= LORA
    config["distill"]["training"] |= LORA
    config["distill"] |= {"student": "adapter", "teachers": {"twin": {"model": "ceiling"}}, "methods": {}}
    config["distill"]["methods"] = {"sft": {}, "uld": {"teachers": ["twin"], "uld": 0.4, "k": 8}}
    (jobs,) = plans(copy_checkout(tmp_path), [config | {"run": "planned"}])
    assert not isinstance(jobs, str), jobs
    inputs = {(job["rule"], *job["wildcards"].values()): set(job["input"]) for job in jobs}
    large, small, adapter, ceiling = (
        f"results/planned/{name}" for name in ("models/large", "models/small", "experts/adapter", "experts/ceiling")
    )
    assert {ceiling, large} <= inputs["decode", "sums", "0"]
    assert {adapter, small} <= inputs["expert", "merged"]
    assert {adapter, small} <= inputs["student", "sft", "0"]
    assert {adapter, small} <= inputs["answer", "adapter"]
    assert {"results/planned/distill/students/sft.0", adapter, small} <= inputs["answer", "sft.0"]
    assert large not in inputs["expert", "sums"]
    assert {ceiling, large} <= inputs["teacher_cache", "twin", "0"]


def test_the_command_line_reads_an_adapter_as_a_model(run: Run, merged: dict[str, PreTrainedModel]) -> None:
    alone = FusedLM.from_folders(run.expert("first"))
    assert_equal(alone.large.to(CPU), merged["first"])


def test_a_reference_as_base(run: Run, merged: dict[str, PreTrainedModel], tmp_path: Path) -> None:
    """A run whose base is a link to a folder elsewhere."""
    elsewhere = Path(shutil.move(run.base, tmp_path / "elsewhere"))
    (elsewhere / RECORD).unlink()
    from_path(PathModel(source="path", path=str(elsewhere)), run.base)
    assert_equal(load_expert(run.expert("first"), device=CPU), merged["first"])
