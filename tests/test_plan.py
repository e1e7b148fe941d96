"""logitfusion plan: what a run needs before anything is downloaded, and what would make it fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from checkout import ROOT
from generate import plans
from generate.parts import replace_part
from hypothesis import given, settings
from hypothesis import strategies as st

from logitfusion import cli
from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.config.distill import Rounding
from logitfusion.config.load import resolve_config
from logitfusion.config.run import RunConfig
from logitfusion.distill.packed import RowCode
from logitfusion.errors import UserError
from logitfusion.plan.cost import CONTEXT, PROCESS
from logitfusion.plan.counted import Counted, Models
from logitfusion.plan.decoding import Member, Texts, cached_token, decode_cost
from logitfusion.plan.hardware import GPUS, Gpu, find_gpu
from logitfusion.plan.jobs import Assumed
from logitfusion.plan.measure import measure, read_config
from logitfusion.plan.models import count_models
from logitfusion.plan.planner import Planner
from logitfusion.plan.remedies import edit_run
from logitfusion.plan.resources import PlannedResources, read_size
from logitfusion.plan.run import fits, plan_run, trace_kept
from logitfusion.plan.size import CachedLayer, ModelSize
from logitfusion.plan.tasks import RecordedTasks, TaskSize, read_tasks
from logitfusion.plan.training import Activations, Forward, Plan, estimate, train_cost

PAPER = ROOT / "config/paper"
METADATA = PAPER / "metadata"
LLAMA = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def describe(folder: Path, name: str, config: dict[str, Any], files: dict[str, int] | None = None) -> None:
    """A model of the hub, as --metadata has it."""
    place = folder / "owner" / name
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "files.json").write_text(json.dumps(files or {"model.safetensors": 1000, "consolidated.safetensors": 9}))


def small_run(**changes: Any) -> dict[str, Any]:
    hub = {"source": "hub", "revision": "main"}
    config = {
        "run": "planned",
        "models": {"large": hub | {"id": "owner/large"}, "small": hub | {"id": "owner/small"}},
        "tasks": {"sums": {"harness": "sums", "train": 64, "validation": 8, "test": 8}},
        "experts": {"sums": {"base": "small", "tasks": ["sums"], "steps": 4, "batch_size": 8}},
        "fusion": {"large": "large", "base": "small", "methods": {"dynamic": {"experts": ["sums"]}}},
    }
    return config | changes


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metadata")
    describe(folder, "large", LLAMA | {"num_hidden_layers": 8})
    describe(folder, "small", LLAMA)
    return folder


def plan(tmp_path: Path, config: dict[str, Any], *options: str) -> tuple[int, Path]:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    written = tmp_path / "plan.json"
    return cli.main(["plan", str(tmp_path / "run.yaml"), "--json", str(written), *options]), written


# ---- the command -----------------------------------------------------------------------------------------------------
def test_a_plan_names_jobs_downloads_and_parts(
    tmp_path: Path, metadata: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logitfusion.plan.models.ask_hub_for", None)  # it is not asked
    code, written = plan(tmp_path, small_run(), "--metadata", str(metadata), "--gpu", "h100")
    shown = capsys.readouterr().out
    assert code == 0
    found = json.loads(written.read_text())
    assert {(job["rule"], job["name"]) for job in found["jobs"]} == {("expert", "sums"), ("decode", "sums")}
    assert found["downloads"] == {"owner/large": 1000, "owner/small": 1000}, "what is not needed is not counted"
    for job in found["jobs"]:
        assert job["gpu_bytes"] > sum(job["gpu_parts"].values()) > 0
        assert f"{job['rule']} {job['name']}" in shown
    assert "--prompt-tokens" in shown


def test_what_does_not_fit_is_told_with_what_would(
    tmp_path: Path, metadata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, written = plan(tmp_path, small_run(), "--metadata", str(metadata), "--gpu-memory", "0.9")
    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.splitlines()[-1].startswith("logitfusion: ")
    for misfit in json.loads(written.read_text())["misfits"]:
        for remedy in misfit["remedies"]:
            assert all(f"{key}: " in captured.out for key in remedy)
            changed = edit_run(resolve_config(small_run()), remedy)
            again = plan_run(changed, "x", gpu=find_gpu("T4"), metadata=metadata)
            job = next(job for job in again.jobs if job.key == (misfit["rule"], misfit["name"]))
            assert job.cost.gpu_bytes <= 0.9e9, "each remedy is enough by itself"


def test_a_remedy_is_of_the_dtype_that_is_in_force(metadata: Path) -> None:
    config = small_run()
    config["fusion"] |= {"dtype": "float32", "batch_size": 1}
    run = resolve_config(config)
    half = plan_run(edit_run(run, {"fusion.dtype": "bfloat16"}), "x", metadata=metadata).jobs[-1].cost.gpu_bytes
    card = Gpu("a card", half + 1)
    assumed = Assumed(cards=1, memory=card.memory)
    *_, misfit = plan_run(run, "x", gpu=card, assumed=assumed, metadata=metadata).misfits
    assert misfit.job.rule == "decode"
    assert misfit.remedies == ({"fusion.dtype": "bfloat16"},), "models.*.dtype would change nothing"


def test_a_batch_that_is_found_is_the_largest_that_fits(metadata: Path) -> None:
    config = small_run()
    config["fusion"] |= {"batch_size": "auto"}
    config["tasks"]["sums"]["test"] = 4000
    run = resolve_config(config)

    def decode(size: int | str, **places: Any) -> Any:
        return plan_run(edit_run(run, {"fusion.batch_size": size}), "x", metadata=metadata, **places).jobs[-1].cost

    rows = decode(64).gpu_bytes - CONTEXT
    for memory in (CONTEXT + share * rows for share in (1.0, 1.2, 1.9)):
        found = decode("auto", assumed=Assumed(memory=memory))
        assert found.gpu_bytes <= memory
        assert found == decode(64, assumed=Assumed(memory=memory)), "memory and time are of the same batch"
    assert decode("auto", assumed=Assumed(memory=1e3)) == decode(1, assumed=Assumed(memory=1e3))
    assert decode("auto", on_cpu=True) == decode(256, on_cpu=True), "a job that took all memory would be killed"


def test_a_training_on_a_cpu_is_in_fp32(metadata: Path) -> None:
    def kept(precision: str, *, on_cpu: bool) -> float:
        run = edit_run(resolve_config(small_run()), {"experts.sums.precision": precision})
        return plan_run(run, "x", on_cpu=on_cpu, metadata=metadata).jobs[0].cost.gpu["activations"]

    assert kept("auto", on_cpu=True) == kept("fp32", on_cpu=True) > kept("auto", on_cpu=False)
    assert kept("auto", on_cpu=False) == kept("bf16", on_cpu=True)


def test_each_process_of_a_training_has_its_libraries() -> None:
    size, kept = measure(read_config(LLAMA, "It")), Activations(0.0, 1.0)
    one, four = (train_cost(size, kept, Plan(1, 8, 8, processes=count)).host_bytes for count in (1, 4))
    assert four - one == 3 * PROCESS


def test_a_config_json_that_is_no_table_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = tmp_path / "metadata"
    describe(metadata, "large", LLAMA)
    (metadata / "owner/large/config.json").write_text("[1]")
    assert plan(tmp_path, small_run(), "--metadata", str(metadata))[0] == 1
    assert "'owner/large' (revision main) has a config.json that can't be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpu", "H1000"), "did you mean H100"),
        (("--gpus", "0"), "--gpus must be at least 1"),
        (("--gpu-memory", "-1"), "--gpu-memory"),
        (("--metadata", "nowhere"), "does not exist"),
    ],
)
def test_options_that_can_not_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert plan(tmp_path, small_run(), *options)[0] == 1
    assert words in capsys.readouterr().err


# ---- what is known to be wrong ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        (LLAMA | {"vocab_size": 5000}, None, "can't be fused"),
        (LLAMA | {"model_type": "of_the_future"}, None, "an architecture that transformers does not have"),
        (LLAMA | {"model_type": "own", "auto_map": {"AutoConfig": "x.y"}}, None, "needs Python code"),
        (LLAMA, {"pytorch_model.bin": 10}, "has its weights in pytorch_model.bin"),
        (LLAMA | {"model_type": "clip"}, None, "causal language model"),
    ],
    ids=["vocabulary", "architecture", "code", "bin", "no decoder"],
)
def test_what_is_known_to_be_wrong_is_refused_before_a_download(
    tmp_path: Path, config: dict[str, Any], files: dict[str, int] | None, words: str
) -> None:
    describe(tmp_path, "large", LLAMA)
    describe(tmp_path, "small", config, files)
    with pytest.raises(UserError, match=words):
        plan_run(resolve_config(small_run()), "x", metadata=tmp_path)


def test_padded_vocabularies_are_no_fault(tmp_path: Path) -> None:
    describe(tmp_path, "large", LLAMA)
    describe(tmp_path, "small", LLAMA | {"vocab_size": 640})
    assert plan_run(resolve_config(small_run()), "x", metadata=tmp_path).jobs


def test_models_of_packages_are_not_guessed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "tests")  # no results here
    assert cli.main(["plan", str(ROOT / "config/config.yaml"), "--gpu", "none"]) == 0
    shown = capsys.readouterr().out
    assert "its package says nothing of it before it is downloaded" in shown
    assert "Disk: not known" in shown, "what is not known is not said to be nothing"


# ---- the papers' settings --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", plans.PLANS)
def test_the_papers_settings_fit_and_the_page_shows_them(name: str) -> None:
    found = plans.make_plan(plans.PLANS[name])
    assert [misfit.reason for misfit in found.misfits] == []
    assert max(job.cost.cards for job in found.jobs) == plans.PLANS[name].cards
    assert all(found.downloads.values())
    assert found.guessed == (), "tasks.json has them"
    text = plans.PAGE.read_text()
    assert replace_part(text, name, plans.render(found)) == text, "run make reference"


def test_without_half_precision_and_sharding_they_do_not() -> None:
    config = yaml.safe_load((PAPER / "gld.yaml").read_text())
    config["distill"]["training"] |= {"processes": 1, "sharded": False}
    for model in config["models"].values():
        model["dtype"] = "float32"
    gpu = GPUS["A100-80GB"]
    found = plan_run(resolve_config(config), "x", gpu=gpu, assumed=Assumed(memory=gpu.memory), metadata=METADATA)
    wrong = {misfit.job.key: misfit.remedies for misfit in found.misfits}
    assert {("student", "gld"), ("teacher_cache", "mistral"), ("answer", "mistral")} <= wrong.keys()
    assert any(edit.get("distill.training.sharded") for edit in wrong["student", "gld"])
    assert {"distill.cache.precision": "bf16"} in wrong["teacher_cache", "mistral"]


# ---- tasks -----------------------------------------------------------------------------------------------------------
def sizes_of(tmp_path: Path, tasks: dict[str, Any], counts: dict[str, int] | None = None) -> dict[str, TaskSize]:
    run = resolve_config(small_run(tasks=small_run()["tasks"] | tasks))
    (tmp_path / "tasks.json").write_text(json.dumps(counts or {}))
    return read_tasks(run, tmp_path, tmp_path / "results", documents=77)


def test_a_task_is_as_large_as_its_definition_says(tmp_path: Path) -> None:
    tasks = {
        "gsm8k": {"harness": "gsm8k"},
        "zero": {"harness": "gsm8k", "num_fewshot": 0, "generation_kwargs": {"max_gen_toks": 99}, "test": 12},
        "anatomy": {"harness": "mmlu_anatomy", "validation": 5},
        "stem": {"harness": "mmlu_stem", "test": 3},
        "news": {"harness": "cnn_dailymail_rouge2"},
    }
    found = sizes_of(tmp_path, tasks, {"gsm8k": 1319, "mmlu_anatomy": 135})
    assert found["gsm8k"] == TaskSize(test=1319, validation=0, new=256, shots=5)
    assert found["zero"] == TaskSize(test=12, validation=0, new=99, shots=0)
    assert found["anatomy"] == TaskSize(test=135, validation=5, new=1, shots=0), "choices are scored in one pass"
    assert found["stem"].test == 3 * 19, "the first so many of each subject"
    assert found["news"] == TaskSize(test=77, validation=0, new=128, certain=False), "nothing says it, so it is assumed"


def test_a_task_that_was_made_is_as_large_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "results/planned/tasks/gsm8k"
    place.mkdir(parents=True)
    write_artefact(place / "record.json", {"sizes": {"test": 40, "validation": 0, "train": 0}})
    tasks = {"gsm8k": {"harness": "gsm8k"}}
    assert sizes_of(tmp_path, tasks)["gsm8k"] == TaskSize(test=40, validation=0, shots=5)
    run = resolve_config(small_run(tasks=small_run()["tasks"] | tasks))
    assert RecordedTasks(run, tmp_path / "results/planned")("gsm8k").test == 40


def test_what_is_assumed_of_tasks_is_told(tmp_path: Path, metadata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_run(tasks=small_run()["tasks"] | {"gsm8k": {"harness": "gsm8k"}})
    assert plan(tmp_path, config, "--metadata", str(metadata), "--documents", "55")[0] == 0
    assert "55 documents of gsm8k (--documents)" in " ".join(capsys.readouterr().out.split())
    assert plan(tmp_path, small_run(), "--metadata", str(metadata))[0] == 0
    assert "--documents" not in capsys.readouterr().out


def test_more_examples_and_longer_texts_need_more(metadata: Path) -> None:
    def decode(**task: Any) -> Any:
        config = small_run(tasks={"sums": small_run()["tasks"]["sums"] | task})
        return plan_run(resolve_config(config), "x", metadata=metadata).jobs[-1].cost

    assert decode(num_fewshot=8).gpu_bytes > decode().gpu_bytes
    assert decode(generation_kwargs={"max_gen_toks": 400}).gpu_bytes > decode().gpu_bytes
    assert decode(test=800).work.flops == pytest.approx(100 * decode().work.flops)


def test_a_method_may_show_other_examples_than_its_task(metadata: Path) -> None:
    config = small_run()
    config["fusion"]["methods"] |= {"shots": {"experts": ["sums"], "num_fewshot": 8}}
    plain, shots = plan_run(resolve_config(config), "x", metadata=metadata).jobs[-2:]
    assert shots.cost.work.flops > plain.cost.work.flops


def test_texts_without_a_measure_are_learnt_from_and_not_decoded(metadata: Path) -> None:
    config = small_run()
    config["tasks"]["texts"] = {"texts": [{"path": "x.jsonl", "messages": "messages"}], "train": 64}
    config["experts"]["sums"] |= {"tasks": ["sums", "texts"], "steps": None, "epochs": 1}
    first, last = plan_run(resolve_config(config), "x", metadata=metadata).jobs
    config["experts"]["sums"]["tasks"] = ["sums"]
    other, _ = plan_run(resolve_config(config), "x", metadata=metadata).jobs
    assert first.cost.work.flops == pytest.approx(2 * other.cost.work.flops)
    assert last.count == 1


def test_a_config_over_another_replaces_what_it_names(
    tmp_path: Path, metadata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small_run()))
    (tmp_path / "over.yaml").write_text("run: other\nexperts: {sums: {method: lora}}\n")
    both = [str(tmp_path / name) for name in ("base.yaml", "over.yaml")]
    written = tmp_path / "plan.json"
    assert cli.main(["plan", *both, "--metadata", str(metadata), "--json", str(written)]) == 0
    assert " and ".join(both) in capsys.readouterr().out
    config = small_run(run="other")
    config["experts"]["sums"]["method"] = "lora"
    expected = plan_run(resolve_config(config), "x", metadata=metadata)
    assert [job["disk"] for job in json.loads(written.read_text())["jobs"]] == [job.cost.disk for job in expected.jobs]


def test_encoders_of_the_few_shot_track_are_counted(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Their architectures alone say what they weigh."""
    import open_clip
    import timm

    images = {"source": "folder", "path": "images"}
    auxiliary = {"source": "timm", "model": "test_efficientnet.r160_in1k"}
    clip = {
        "encoder": {"source": "open_clip", "model": "ViT-S-32-alt", "pretrained": "openai"},
        "auxiliaries": {"tiny": auxiliary},
        "datasets": {"mine": images},
        "methods": {"zero_shot": {}},
    }
    code, written = plan(tmp_path, {"run": "few", "clip": clip}, "--gpu", "T4")
    assert code == 0
    assert not caplog.records, "that an encoder has no weights here is no news"
    found = json.loads(written.read_text())
    assert found["downloads"] == {"open_clip ViT-S-32-alt openai": None, "timm test_efficientnet.r160_in1k": None}
    models = [open_clip.create_model("ViT-S-32-alt"), timm.create_model("test_efficientnet.r160_in1k")]
    weights = sum(value.nbytes for model in models for value in model.parameters())
    assert [job["gpu_parts"]["weights"] for job in found["jobs"]] == [weights, weights]
    said = capsys.readouterr().out
    assert "clip_test mine" in said
    assert [job["disk"] for job in found["jobs"]] == [None] * len(found["jobs"])
    assert "Disk: not known, because the features of pictures are not counted" in said


# ---- properties ------------------------------------------------------------------------------------------------------
def size_of(layers: int = 8, hidden: int = 256, vocabulary: int = 4096, window: int | None = None) -> ModelSize:
    linear = layers * 12 * hidden**2
    return ModelSize(
        parameters=linear + 2 * hidden * vocabulary, active=linear, linear=linear, embedding=2 * hidden * vocabulary,
        layer=12 * hidden**2, adapted=layers * 16 * hidden, hidden=hidden, widest=4 * hidden, heads=4,
        vocabulary=vocabulary, cache=(CachedLayer(hidden, window),) * layers, context=4096, dtype="bfloat16",
    )  # fmt: skip


sizes = st.builds(
    size_of,
    layers=st.integers(2, 48),
    hidden=st.sampled_from([64, 512, 4096]),
    vocabulary=st.sampled_from([512, 32000, 151936]),
    window=st.sampled_from([None, 128]),
)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 64), st.integers(1, 2000), st.integers(1, 500), st.sampled_from([1, 2, 4, 8]))
def test_decoding_needs_no_less_for_more(size: ModelSize, batch: int, prompt: int, new: int, cards: int) -> None:
    def need(
        batch: int = batch, prompt: int = prompt, cards: int = cards, dtype: str = "bfloat16", count: int = 3
    ) -> float:
        chosen = [Member(size, dtype)] * count
        return decode_cost(chosen, Texts(1000, prompt, new), batch, cards=cards).gpu_bytes

    assert need(batch=batch + 1) > need()
    assert need(prompt=prompt + 100) > need()
    assert need(dtype="float32") > need()
    assert need(count=4, cards=1) > need(cards=1)
    assert need(cards=2 * cards) <= need() * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 16), st.integers(8, 4096), st.sampled_from([2, 4, 8]))
def test_training_needs_no_less_for_more(size: ModelSize, rows: int, tokens: int, processes: int) -> None:
    def need(**changes: Any) -> float:
        given_plan = {"rows": rows, "tokens": tokens, "sequences": 100} | changes
        forward = Forward(dtype="bfloat16" if "rank" in changes else "float32")
        return train_cost(size, estimate(size, forward), Plan(**given_plan)).gpu_bytes

    parted = {"processes": processes, "sharded": True}
    assert need(rows=rows + 1) > need()
    assert need(tokens=tokens + 8) > need()
    assert need(checkpointed=True) <= need()
    assert need(**parted) >= need(**{**parted, "processes": 2 * processes})
    assert need(rank=8, frozen="bfloat16") > need(rank=8, frozen="nf4") - size.layer * 2
    assert need(processes=processes) > need(), "a copy in each, and buckets beside the gradients"


def test_a_training_has_its_sixteen_bytes_a_parameter() -> None:
    size = size_of()
    cost = train_cost(size, Activations(0, 0), Plan(rows=1, tokens=8, sequences=8))
    assert cost.scratch == 2 * 12 * size.parameters, "the Trainer deletes a checkpoint once the next one is written"
    full = cost.gpu
    assert full["weights"] + full["gradients"] + full["optimizer"] == 16 * size.parameters
    lora = train_cost(size, Activations(0, 0), Plan(rows=1, tokens=8, sequences=8, rank=4, frozen="bfloat16")).gpu
    assert lora["weights"] + lora["gradients"] + lora["optimizer"] == 2 * size.parameters + 16 * size.adapters(4)


@given(st.integers(1, 64), st.sampled_from([64, 512, 2**16, 2**16 + 1, 151936]), st.sampled_from(get_args(Rounding)))
def test_a_cached_token_is_as_large_as_it_is_written(k: int, vocabulary: int, rounding: Rounding) -> None:
    assert cached_token(k, vocabulary, rounding) == RowCode(k, vocabulary, rounding).row_bytes(longest=16)


# ---- the rules -------------------------------------------------------------------------------------------------------
@pytest.fixture
def results(tmp_path: Path, metadata: Path) -> Path:
    """A run's folder whose models are there."""
    for name, layers in (("large", 8), ("small", 4)):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        shutil.copy(metadata / "owner" / name / "config.json", folder)
        record = {"parameters": 10**6 * layers, "layers": layers, "vocabulary": 512, "stored_dtype": "bfloat16"}
        write_artefact(folder / "record.json", record)
    return tmp_path


def test_rules_ask_for_what_they_asked_as_long_as_that_is_enough(results: Path, tmp_path: Path) -> None:
    run = resolve_config(small_run())
    for folder in (results, tmp_path / "nothing"):
        asked = PlannedResources(run, folder)
        assert asked.memory_mb("expert", "sums", 16000) == 16000
        assert asked.minutes("decode", "sums", 240) == 240


def test_rules_ask_for_more_where_models_are_large(results: Path) -> None:
    run = resolve_config(small_run())
    record = results / "models/small/record.json"
    write_artefact(record, read_artefact(record) | {"parameters": 13 * 10**9})
    asked = PlannedResources(run, results)
    assert asked.memory_mb("expert", "sums", 16000) > 52_000, "all weights are saved from fp32 masters"
    assert asked.memory_mb("decode", "sums", 16000) == 16000, "weights go to the GPU"


COUNTING = """
import json, sys
from pathlib import Path
from logitfusion.config.load import resolve_config
from logitfusion.plan.resources import PlannedResources
jobs = PlannedResources(resolve_config(json.loads(sys.argv[1])), Path(sys.argv[2])).planner.jobs()
print({job.rule for job in jobs if job.cost is not None} >= {"expert", "decode"}, "torch" in sys.modules)
"""


def test_rules_count_the_jobs_of_models_that_are_there_without_torch(results: Path) -> None:
    """Every call of Snakemake does, and so does each job of a cluster's."""
    words = [sys.executable, "-c", COUNTING, json.dumps(small_run()), str(results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    assert (
        subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout == "True False\n"
    )


def test_records_say_what_building_the_model_says(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    exact = measure(read_config(LLAMA, "It"))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    sizes = {"parameters": exact.parameters, "layers": 4, "vocabulary": 512}
    write_artefact(folder / "record.json", sizes | {"stored_dtype": "bfloat16"})
    known = read_size(folder)
    assert (known.weights(), known.embedding, known.cache) == (exact.weights(), exact.embedding, exact.cache)
    assert known.adapted == pytest.approx(exact.adapted, rel=0.1)
    for forward in (Forward(), Forward(autocast=False)):
        kept = trace_kept(Counted(exact, LLAMA), forward, 64)
        assert estimate(known, forward).at(4, 64) == pytest.approx(kept.at(4, 64), rel=0.25)


def test_a_job_is_found_by_its_name_and_anew_once_its_models_are_known(metadata: Path) -> None:
    run = resolve_config(small_run())
    known = count_models(run, metadata, Path("results")).counted
    models = Models({}, dict.fromkeys(known, "why"))
    planner = Planner(run, models, Assumed(), trace_kept)
    first = planner.jobs()
    assert [planner.find(*job.key) for job in first] == first
    assert planner.find("decode", "nothing") is None
    models.counted.update(known)
    assert all(planner.find(*job.key).cost is not None for job in first)


def test_unknown_models_fit_anything() -> None:
    run: RunConfig = resolve_config(small_run())
    (job, *_) = Planner(run, Models({}, {"small": "why", "large": "why"}), Assumed(), trace_kept).jobs()
    assert job.cost is None
    assert fits(job, GPUS["T4"], Assumed())
