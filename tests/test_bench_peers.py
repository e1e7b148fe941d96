"""`make bench-peers` in small, on tiny models, beside stand-ins that are called as the other libraries are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation import utils as generation

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import peers
from beside.checkouts import PROXY_TUNING
from beside.comparison import Comparison, table

PROMPTS = ("Which is the largest?", "Two and two", "A prompt of more words than the others have")

# A loop with caches that asks transformers, as it did once, what is to be read next.
LOOP = """
import torch
from transformers import AutoModelForCausalLM
from transformers.generation.utils import top_k_top_p_filtering

class DExpertsLlama:
    def __init__(self, large, expert, base, tokenizer, model_kwargs):
        assert tokenizer.eos_token_id == -1
        made = [AutoModelForCausalLM.from_pretrained(one, **model_kwargs).eval() for one in (large, expert, base)]
        self.base, self.expert, self.antiexpert = made

    def generate(self, ids, max_new_tokens, attention_mask, use_cache):
        options = [{"attention_mask": attention_mask, "use_cache": use_cache} for _ in range(3)]
        for _ in range(max_new_tokens):
            logits = []
            for model, option in zip((self.base, self.expert, self.antiexpert), options):
                inputs = model.prepare_inputs_for_generation(ids, **option)
                assert inputs["input_ids"].shape[1] == (1 if "past_key_values" in option else ids.shape[1])
                made = model(**inputs)
                logits.append(made.logits[:, -1])
                longer = torch.nn.functional.pad(option["attention_mask"], (0, 1), value=1)
                option |= {"past_key_values": made.past_key_values, "attention_mask": longer}
            ids = torch.cat([ids, (logits[0] + logits[1] - logits[2]).argmax(-1, keepdim=True)], dim=1)
        return ids
"""
PROBE = """
import torch

FeatureDataset = torch.utils.data.TensorDataset

def train(loader, width, classes, decay, rate, epochs, half_precision, device, seed):
    x, y = (torch.cat(parts) for parts in zip(*loader))
    model = torch.nn.Linear(width, classes).cuda()
    model.weight.data = torch.nn.functional.one_hot(y.cuda(), classes).T.float() @ x.cuda()
    model.bias.data.zero_()
    print("not to be seen")
    return model

def infer(model, loader, half_precision, device):
    return torch.cat([model(x) for x, _ in loader]).detach(), None
"""
FILES = {"modeling/dexperts.py": LOOP, "clip_benchmark/metrics/linear_probe.py": PROBE}


def run(options: list[str], output: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", ["peers.py", "--quick", "--rounds", "1", "--output", str(output), *options])
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        peers.main()
    return {"json": json.loads(output.read_text()), "text": output.with_suffix(".md").read_text()}


@pytest.fixture(scope="module")
def report(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run on tiny models, beside the stand-ins."""
    folder = tmp_path_factory.mktemp("peers")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for place, name in {"models/large": "large", "models/small": "base", "experts/task": "expert_a"}.items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(tiny_models[name])
    (folder / "tasks/task").mkdir(parents=True)
    lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS]
    (folder / "tasks/task/validation.jsonl").write_text("".join(lines))
    options = ["--parts", "decoding", "probes", "--results", str(folder), "--expert", "task"]
    options += ["--batches", "3", "--tokens", "6", "--proxy-tuning", str(folder), "--clip-benchmark", str(folder)]
    found = run(options, folder / "peers.json")
    for name in [name for name in sys.modules if name.split(".")[0] in ("modeling", "clip_benchmark")]:
        del sys.modules[name]
    return found


def test_padded_prompts_are_decoded_the_same_by_a_loop_that_knows_an_older_transformers(report: dict[str, Any]) -> None:
    assert {row["what"].split(",")[0]: row["answers"] for row in report["json"]["decoding"]["found"]} == {
        "large alone": "3/3 rows the same",
        "proxy-tuning": "3/3 rows the same",
    }
    assert not hasattr(generation, "top_k_top_p_filtering")


def test_probes_answer_for_the_same_images(report: dict[str, Any]) -> None:
    plain, theirs = report["json"]["probes"]["found"]
    assert plain["answers"].endswith("60/60 the same")
    assert theirs["beside"].startswith("CLIP_benchmark")
    assert float(theirs["answers"].split()[3]) > 0.5, "it has learnt"


def test_the_page_has_every_row_and_how_busy_the_machine_was(report: dict[str, Any]) -> None:
    rows = [row for part in ("decoding", "probes") for row in report["json"][part]["found"]]
    assert all(f"\n| {row['what']} | {row['beside']} |" in report["text"] for row in rows)
    assert len(rows) == 4
    assert report["text"].count("Processor time; load of") == 2
    assert "not to be seen" not in report["text"]


def test_a_folder_of_something_else_ends_in_a_sentence_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"{tmp_path} has no folder modeling, so it is not proxy-tuning: `git clone"):
        run(["--proxy-tuning", str(tmp_path)], tmp_path / "peers.json")
    assert not list(tmp_path.iterdir())


def test_what_is_not_named_is_left_out_with_the_commit_to_fetch() -> None:
    said = PROXY_TUNING.missing(None)
    assert said is not None
    assert PROXY_TUNING.commit[:7] in said
    assert "make bench-peers PROXY_TUNING=FOLDER" in said


def test_a_ratio_above_one_means_that_they_take_longer() -> None:
    row = Comparison("this", "theirs 1.0", "all the same", [10.0, 20.0], [30.0, 40.0], 10**6, 2 * 10**6)
    assert row.times_here == [3.0, 2.0]
    assert "| 2.50 [2.00, 3.00] | 2 | all the same | 1 | 2 |" in table([row])[-1]
