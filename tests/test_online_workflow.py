"""Online teachers in the workflow: no cache, their models beside the student, and what the plan says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT, copy_checkout, plans
from test_plan import LLAMA, describe

from logitfusion.config.jobs.distill import student_job
from logitfusion.config.load import resolve_config
from logitfusion.errors import UserError
from logitfusion.plan.report import RunPlan
from logitfusion.plan.run import plan_run

LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8}}


@pytest.mark.workflow
def test_its_model_is_read_by_the_students_in_a_caches_place(tmp_path: Path) -> None:
    """And the base of an adapter; students of other teachers wait for their caches alone."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    del config["clip"], config["fusion"]
    config["experts"]["ceiling"] |= LORA
    config["distill"]["teachers"] = {"live": {"model": "ceiling", "online": True}, "twin": {"model": "large"}}
    config["distill"]["methods"] = {
        "both": {"teachers": ["live", "twin"], "uld": 0.4, "k": 8},
        "cached": {"teachers": ["twin"], "uld": 0.4, "k": 8},
        "hybrid": {"teachers": ["twin"], "hybrid": 0.4, "k": 8},
        "online": {"teachers": ["live"], "kl": 0.4, "k": 99},  # more than any cache keeps
    }
    (jobs,) = plans(copy_checkout(tmp_path), [config | {"run": "planned"}])
    assert not isinstance(jobs, str), jobs
    read = {(job["rule"], *job["wildcards"].values()): set(job["input"]) for job in jobs}
    inputs = {
        name: {path.removeprefix("results/planned/") for path in read["student", name, "0"]}
        for name in ("both", "cached", "hybrid", "online")
    }
    models = {"experts/ceiling", "models/large"}
    caches = {f"distill/cache/twin/{shard}.safetensors" for shard in (0, 1)}
    common = {"models/small", "tasks/sums/train.jsonl"}
    assert inputs == {
        "both": common | models | caches,
        "cached": common | caches,
        "hybrid": common | caches | {"models/large"},  # its tokenizer
        "online": common | models,
    }
    assert {names[1] for names in read if names[0] == "teacher_cache"} == {"twin"}


def distilled(**teacher: Any) -> dict[str, Any]:
    hub = {"source": "hub", "revision": "main"}
    return {
        "run": "planned",
        "models": {"large": hub | {"id": "owner/large"}, "small": hub | {"id": "owner/small"}},
        "tasks": {"sums": {"harness": "sums", "train": 64, "validation": 8, "test": 8}},
        "distill": {
            "student": "small", "tasks": ["sums"], "teachers": {"big": {"model": "large"} | teacher},
            "cache": {"k": 8}, "training": {"steps": 4, "batch_size": 8},
            "methods": {"sft": {}, "uld": {"teachers": ["big"], "uld": 0.4, "k": 8},
                        "kl": {"teachers": ["big"], "kl": 0.4, "k": 8}},
        },
    }  # fmt: skip


def costs(folder: Path, config: dict[str, Any]) -> tuple[RunPlan, dict[str, Any]]:
    found = plan_run(resolve_config(config), "x", metadata=folder)
    return found, {job.name: job for job in found.jobs if job.rule == "student"}


def test_the_plan_counts_it_in_the_students_jobs(tmp_path: Path) -> None:
    describe(tmp_path, "large", LLAMA | {"num_hidden_layers": 8})
    describe(tmp_path, "small", LLAMA)
    (cached, before), (online, after) = (costs(tmp_path, distilled(**more)) for more in ({}, {"online": True}))
    assert {job.rule for job in cached.jobs} - {job.rule for job in online.jobs} == {"teacher_cache"}
    assert before["sft"].cost == after["sft"].cost
    weights = next(job for job in cached.jobs if job.rule == "teacher_cache").cost.gpu["weights"]
    for name in ("uld", "kl"):
        parts = after[name].cost.gpu
        assert {part: size for part, size in parts.items() if part != "teacher 1"} == before[name].cost.gpu
        assert parts["teacher 1"] > weights
        assert after[name].cost.work.flops > before[name].cost.work.flops
        assert {"distill.teachers.big.online": False} in after[name].edits
    logits = 8 * 512 * LLAMA["vocab_size"] * 2  # of a micro-batch, in bf16
    assert after["kl"].cost.gpu["teacher 1"] - after["uld"].cost.gpu["teacher 1"] == logits


def test_what_a_cache_keeps_limits_no_online_teacher() -> None:
    """Its k and its files are no part of the students' slices then; how teachers read is."""
    config = distilled(online=True)
    config["distill"]["methods"]["uld"]["k"] = 9
    slices = []
    for cache in ({"k": 8}, {"k": 7, "shards": 2}, {"max_tokens": 64}, {"precision": "bf16"}):
        config["distill"]["cache"] = cache
        slices.append(student_job(resolve_config(config), "uld").dump())
    assert slices[0] == slices[1]
    assert slices[0]["online"]["big"] == {
        "model": "large", "max_tokens": 512, "precision": "auto", "template": "plain", "system": None,
    }  # fmt: skip
    assert slices[2]["online"]["big"]["max_tokens"] == 64
    assert slices[3]["online"]["big"]["precision"] == "bf16"
    config["distill"]["teachers"]["big"]["online"] = False
    with pytest.raises(UserError, match="the cache keeps"):
        resolve_config(config | {"distill": config["distill"] | {"cache": {"k": 8}}})
