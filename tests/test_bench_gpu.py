"""The GPU benchmarks on a CPU: tiny models of the papers' structures, through the same code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fusion
import training
from decoding import sizes
from decoding.floor import Speed, Work
from decoding.graphs import bench_graph
from decoding.measure import make_fusion
from decoding.naive import naive_loop
from decoding.plan import predict_decoding
from decoding.sizes import SETTINGS, Setting, Shape
from logitfusion.fusion.graphs import StepGraphs
from peak import most_bytes

CPU = torch.device("cpu")
SHAPES = ("llama-13b-4x7b", "llama-13b-4-adapters", "qwen-14b-0.5b")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a dry run writes."""
    output = tmp_path_factory.mktemp("bench") / "fusion.json"
    # In fp32: rounded to bf16, rows that are read together and one by one may differ in a token.
    arguments = ["--dry-run", "--dtype", "float32", "--shapes", *SHAPES, "--teachers", "phi-4", "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fusion.py", *arguments])
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        fusion.main()
    return {"json": json.loads(output.read_text()), "text": output.with_suffix(".md").read_text()}


def test_a_dry_run_decodes_every_setting_as_the_naive_loops_do(report: dict[str, Any]) -> None:
    rows = report["json"]["decoding"]
    assert {(row["pair"], row["batch"]) for row in rows} == {(name, 2) for name in SHAPES}
    for row in rows:
        for same in ("fused equals naive", "proxy equals naive", "speculative equals fused"):
            assert row[same] == "2/2", (row["pair"], same)
        assert 0 < row["solver's share"] < 1
    assert report["json"]["left out"] == []


def test_a_dry_run_counts_memory_and_its_tables_show_it(report: dict[str, Any]) -> None:
    for row in report["json"]["decoding"]:
        weights = sum(row["bytes"].values())
        assert all(peak > weights for peak in row["peak bytes"].values())
    for row in report["json"]["reading"]:
        assert row["peak bytes"] > row["bytes"]
    lines = report["text"].splitlines()
    assert sum(line.startswith("| llama-13b-4x7b | 2 |") for line in lines) == 3
    assert sum(line.startswith("| phi-4 |") for line in lines) == 1
    for line in lines:
        assert not line.startswith("|") or "nan" not in line


def test_what_fails_is_said_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no such kernel\nof this card")

    output = tmp_path / "fusion.json"
    words = ["--dry-run", "--no-solver", "--shapes", SHAPES[0], "--teachers", "phi-4", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["fusion.py", *words])
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    monkeypatch.setattr(fusion, "make_fusion", fail)
    with pytest.raises(SystemExit, match="Something failed"):
        fusion.main()
    assert json.loads(output.read_text())["left out"] == [f"{SHAPES[0]} failed: no such kernel."]
    assert "| phi-4 |" in output.with_suffix(".md").read_text()
    assert "RuntimeError: no such kernel" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llama-13b-4-adapters", "qwen-14b-0.5b"])
def test_the_plan_of_a_fusion_is_its_weights_and_little_more(name: str) -> None:
    """At the papers' sizes: what a dry run measures is mostly of other things."""
    setting = SETTINGS[name]
    with torch.device("meta"):
        large, base = (AutoModelForCausalLM.from_config(shape.config()) for shape in (setting.large, setting.base))
    copies = 1 if setting.adapters else 1 + setting.experts
    weights = 2 * (large.num_parameters() + copies * base.num_parameters())
    planned = predict_decoding(setting, "bfloat16", graphs=False)(8, 64, 24)
    assert weights < planned < 1.1 * weights


def test_the_plan_of_a_dry_run_is_no_less_than_its_peak(report: dict[str, Any]) -> None:
    for row in report["json"]["decoding"]:
        assert row["peak bytes"]["fused"] < 1.02 * row["predicted bytes"]
    for row in report["json"]["reading"]:
        assert row["peak bytes"] < row["predicted bytes"]


def test_a_dry_run_trains_with_and_without_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training.py", "--dry-run", "--output", str(tmp_path / "training.json")])
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    training.main()
    plain, checkpointed = json.loads((tmp_path / "training.json").read_text())["training"]
    assert plain["bytes"] < checkpointed["peak bytes"] < plain["peak bytes"]
    for row in (plain, checkpointed):
        assert len(row["tokens a second"]) == 2
        assert row["peak bytes"] < row["predicted bytes"]
    assert "| llama-7b, LoRA of rank 16, checkpointed |" in (tmp_path / "training.md").read_text()


PUBLISHED = {
    "LLAMA_13B": 13_015_864_320,
    "LLAMA_7B": 6_738_415_616,
    "TINY_LLAMA": 1_100_048_384,
    "QWEN_14B": 14_770_033_664,
    "QWEN_05B": 494_032_768,
    "PHI_4": 14_659_507_200,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_published_models(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(getattr(sizes, name).config())
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_dry_run_has_the_structure_of_what_it_stands_for(setting: Setting) -> None:
    small = setting.shrunk()
    assert (small.experts, small.adapters) == (setting.experts, setting.adapters)
    for own, full in ((small.large, setting.large), (small.base, setting.base)):
        assert (own.family, own.tied) == (full.family, full.tied)
        assert (own.heads > own.key_value_heads) == (full.heads > full.key_value_heads)
    differences = [of.large.vocabulary - of.base.vocabulary for of in (small, setting)]
    assert differences[0] == differences[1]


@pytest.mark.parametrize("name", ["qwen-14b-0.5b", "llama-13b-4-adapters"])
def test_the_steps_that_decoding_takes_are_timed(name: str) -> None:
    made = make_fusion("a", SETTINGS[name].shrunk(), CPU, torch.float32, prompt=5)
    made.graphs = StepGraphs(patience=1, capture=False)
    times = bench_graph(made, 3, 1)["milliseconds a step"]
    assert times.keys() == {"large alone", "fused"}
    assert len(made.graphs.steps) == len(made.models())


def test_weights_are_the_same_in_every_run() -> None:
    setting = SETTINGS["llama-13b-4-adapters"].shrunk()
    first, second = (make_fusion("a", setting, CPU, torch.float32, prompt=5) for _ in range(2))
    assert first.prompts == second.prompts
    loops = [naive_loop(made.members(), made.prompts[:2], 3) for made in (first, second)]
    assert loops[0] == loops[1]
    outputs = [made.base.get_output_embeddings().weight for made in (first, second)]
    assert torch.equal(*outputs)


def test_the_floor_counts_what_a_pass_can_not_do_without() -> None:
    made = make_fusion("a", SETTINGS["llama-13b-4x7b"].shrunk(), CPU, torch.bfloat16, prompt=4)
    shape: Shape = SETTINGS["llama-13b-4x7b"].shrunk().large
    matrices = sum(value.numel() for value in made.large.parameters()) - shape.vocabulary * shape.hidden
    alone, steered = made.work(False, 3, 1, 10), made.work(True, 3, 1, 10)
    assert alone == Work(2 * matrices, 3 * 10 * 2 * 2 * 2 * 32, 2 * 3 * matrices)
    assert (steered.weights, steered.cache, steered.operations) == tuple(
        6 * value for value in (alone.weights, alone.cache, alone.operations)
    ), "large, base and four experts have one shape here"
    assert alone.seconds(Speed(1.0, 1e12)) == alone.weights + alone.cache
    assert alone.seconds(Speed(1e12, 1.0)) == alone.operations


def test_adapters_are_read_with_their_base() -> None:
    whole, shared = (
        make_fusion("a", SETTINGS[name].shrunk(), CPU, torch.bfloat16, prompt=4)
        for name in ("llama-13b-4x7b", "llama-13b-4-adapters")
    )
    assert shared.work(True, 1, 1, 7).cache == whole.work(True, 1, 1, 7).cache
    assert len(shared.models()) == 2
    assert len(whole.models()) == 6


def test_the_peak_is_that_of_what_lives_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.ones(2**18).mul_(2)

    def together() -> list[torch.Tensor]:
        return [torch.ones(2**18) for _ in range(3)]

    assert most_bytes(one_after_the_other, CPU) == pytest.approx(2**20, rel=0.01)
    assert most_bytes(together, CPU) == pytest.approx(3 * 2**20, rel=0.01)
