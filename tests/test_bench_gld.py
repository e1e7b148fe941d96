"""`make bench-gld` in small, beside stand-ins of the other libraries that compute what theirs do, in their form."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gld
from distillation import codec, peers
from distillation.pair import Pair

CPU = torch.device("cpu")
LIBRARIES = ("torch", "TRL", "DistillKit")

# The formulas of their files, without their options. TRL: trl/experimental/{gold,gkd} as of commit f2cd577.
GOLD = """
import torch
from torch.nn.functional import pad

def jsd(p, q):
    m = (p + q) / 2
    return ((torch.xlogy(p, p / m) + torch.xlogy(q, q / m)) / 2).sum()

class ULDLoss:
    def __init__(self, config, student_tokenizer, teacher_tokenizer, device):
        self.config = config
        own, other = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
        self.pairs = [(own[word], place) for word, place in other.items() if word in own]

    def __call__(self, student, teacher, labels, teacher_labels, ids, teacher_ids, offsets, teacher_offsets):
        sides = [logits[0, :-1].softmax(-1) for logits in (student, teacher)]
        tokens = [one[0, 1:].tolist() for one in (ids, teacher_ids)]
        ends = [one[0, 1:, 1].tolist() for one in (offsets, teacher_offsets)]
        assert not self.config.uld_skip_student_eos and not self.config.uld_skip_teacher_eos
        assert self.config.uld_token_merge_strategy == "bayesian" and int(labels[0, 0]) == -100
        if self.config.use_extended_uld:
            common = sorted(set(ends[0]) & set(ends[1]))
            sides = [self.merged(*side, common) for side in zip(sides, tokens, ends)]
        if getattr(self.config, "uld_use_hybrid_loss", False):
            mine, theirs = zip(*self.pairs)
            share = len(mine) / sides[1].shape[1]
            shared = jsd(sides[0][:, list(mine)], sides[1][:, list(theirs)]) / len(sides[0])
            rest = [side[:, [i for i in range(side.shape[1]) if i not in set(own)]]
                    for side, own in zip(sides, (mine, theirs))]
            return share * shared + (1 - share) * self.l1(rest)
        return self.l1(sides)

    def l1(self, sides):
        first, second = (side.sort(dim=-1, descending=True).values for side in sides)
        return (first - second).abs().sum() / len(first)

    def merged(self, probs, tokens, ends, common):
        rows, start = [], 0
        for end in common:
            stop = ends.index(end)
            factor = 1.0
            for place in range(start, stop):
                factor = factor * probs[place, tokens[place]].clamp_min(1e-8)
            rows.append(probs[stop] * factor)
            start = stop + 1
        return torch.stack(rows)
"""
GKD = """
import math, torch
from torch.nn.functional import kl_div

class GKDTrainer:
    @staticmethod
    def generalized_jsd_loss(student_logits, teacher_logits, labels=None, beta=0.5):
        p, q = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
        if beta in (0, 1):
            return kl_div(*((p, q) if beta == 0 else (q, p)), reduction="sum", log_target=True) / (labels != -100).sum()
        m = torch.logaddexp(p, q) - math.log(2)
        return sum(kl_div(m, one, reduction="sum", log_target=True) for one in (p, q)) / 2 / (labels != -100).sum()
"""
KL = """
import torch

def dense_kl_div(logits, target_logits):
    p, q = logits.log_softmax(-1), target_logits.log_softmax(-1)
    return (q.exp() * (q - p)).sum()

def with_rest(logits, ids, values):
    own = logits.log_softmax(-1).gather(-1, ids).exp()
    return [torch.cat([one, 1 - one.sum(-1, keepdim=True)], -1) for one in (own, values.exp())]

def sparse_kl_div(logits, target_ids, target_values, missing, log_target):
    assert missing == "rest" and log_target
    p, q = with_rest(logits, target_ids, target_values)
    return torch.xlogy(q, q / p).sum()
"""
JSD = """
import torch
from distillkit.lossfuncs.kl import with_rest

def halves(p, q):
    m = (p + q) / 2
    return (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() / 2

def dense_js_div(logits, target_logits):
    return halves(logits.softmax(-1), target_logits.softmax(-1))

def sparse_js_div(logits, target_ids, target_values, missing, log_target):
    return halves(*with_rest(logits, target_ids, target_values))
"""
COMPRESSOR = """
import torch

class LogprobCompressor:
    def __init__(self, config):
        self.config = config

    def compress_from_sparse(self, indices, logprobs):
        assert self.config["k"] == indices.shape[1] and self.config["d"] > int(indices.max())
        return {"bytepacked_indices": indices, "compressed_logprobs": logprobs.bfloat16()}

    def decompress_to_sparse(self, row):
        return row["bytepacked_indices"], row["compressed_logprobs"]
"""
FILES = {
    "trl/experimental/gold/gold_trainer.py": GOLD,
    "trl/experimental/gkd/gkd_trainer.py": GKD,
    "distillkit/lossfuncs/kl.py": KL,
    "distillkit/lossfuncs/jsd.py": JSD,
    "distillkit/compression/compressor.py": COMPRESSOR,
    "distillkit/compression/config.py": "DistributionQuantizationConfig = dict\n",
    "distillkit/missing_probability.py": 'class MissingProbabilityHandling:\n    SYMMETRIC_UNIFORM = "rest"\n',
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run writes."""
    folder = tmp_path_factory.mktemp("bench")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    output = folder / "gld.json"
    options = ["--quick", "--rounds", "1", "--trl", str(folder), "--distillkit", str(folder), "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", ["gld.py", *options])
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        gld.main()
    for name in [name for name in sys.modules if name.split(".")[0] in ("trl", "distillkit")]:
        del sys.modules[name]
    return {"json": json.loads(output.read_text()), "text": output.with_suffix(".md").read_text()}


def test_a_quick_run_has_every_part_and_a_table_of_it(report: dict[str, Any]) -> None:
    assert set(gld.PARTS) <= set(report["json"])
    for name, part in gld.PARTS.items():
        first = part.table(report["json"][name])[0].split("|")[1]
        assert f"\n|{first}|" in "\n" + report["text"]
    assert "nan" not in report["text"]


def test_every_loss_of_another_library_has_its_number_and_gradient(report: dict[str, Any]) -> None:
    rows = {row["loss"]: row for row in report["json"]["peers"]["rows"]}
    assert set(rows) == {value for name, value in vars(peers).items() if name.isupper() and isinstance(value, str)}
    compared = [name.split()[0] for row in rows.values() for name in row["others"]]
    assert {name: compared.count(name) for name in LIBRARIES} == {"torch": 1, "TRL": 6, "DistillKit": 4}
    for row in rows.values():
        for other in row["others"].values():
            assert other["loss"] == pytest.approx(row["loss here"], rel=1e-4), row["loss"]
            assert other["difference of gradients"] < 1e-3, row["loss"]
        assert len({row["loss here"] for row in rows.values()}) == len(rows)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "TRL", ("trl_is_not_here", lambda: importlib.import_module("trl_is_not_here")))
    assert peers.find("TRL", None) is None


def test_a_folder_without_the_library_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(peers.PEERS, "TRL", ("trl_is_not_here", lambda: importlib.import_module("trl_is_not_here")))
    with pytest.raises(SystemExit, match=f"TRL can't be imported from {tmp_path}: No module"):
        peers.find("TRL", tmp_path)


def test_a_pair_has_texts_of_one_length_whose_ends_meet() -> None:
    pair = Pair.make(16, 50, 5, CPU)
    for ends, labels in ((pair.ends, pair.labels), (pair.teacher_ends, pair.teacher_labels)):
        assert ends == sorted(set(ends))
        assert len(ends) == labels.shape[1] - 1 == 16
    assert pair.ends != pair.teacher_ends
    assert 2 < len(pair.groups) < 16
    assert pair.groups[-1, 1] == pair.groups[-1, 3] == 15


def test_codecs_are_given_the_same_predictions(report: dict[str, Any]) -> None:
    rows = {row["codec"].split(", ")[-1]: row for row in report["json"]["codec"]["rows"]}
    assert set(rows) == {"fine", "coarse", *codec.SETTINGS}
    assert len({row["mean"] for row in rows.values()}) == 3, "a stand-in has one code for all settings"
    assert rows["fine"]["mean"] < rows["coarse"]["mean"]
    for row in rows.values():
        assert 0 < row["mean"] <= row["worst"] < 0.1
        assert 0 < row["error"] < 0.5
