"""`snakemake --until fetch` makes all downloads and nothing else; after it no job asks the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import yaml
from checkout import copy_checkout, rules_with, snakemake
from hub_standin import Hub, commit_of, serve
from huggingface_hub import constants
from safetensors.torch import save

from logitfusion.clip.encoders.hub import clip_weights, fetch_encoder, timm_weights
from logitfusion.clip.encoders.load import load_auxiliary
from logitfusion.fetch import hub as client
from logitfusion.models.load import load_model

RUN = Path("results/far")
TASK = {
    "task": "far_sums",
    "dataset_path": "owner/sums",
    "test_split": "train",
    "output_type": "generate_until",
    "doc_to_text": "{{question}} =",
    "doc_to_target": "answer",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
MODEL = {"source": "hub", "id": "owner/tiny", "revision": "main"}
CONFIG = {
    "run": "far",
    "models": {"large": MODEL, "unused": MODEL | {"id": "owner/huge"}},
    "tasks": {"sums": {"harness": "far_sums", "include_path": "far", "test": 2}},
    "fusion": {"large": "large", "base": "large", "shards": 1, "methods": {"large": {"model": "large"}}},
}


def add_all(hub: Hub, tiny_model: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.suffix in (".json", ".safetensors")}
    hub.add("owner/tiny", {name: data for name, data in files.items() if name != "record.json"})
    rows = [{"question": f"{number} + 1", "answer": number + 1} for number in range(4)]
    hub.add("owner/sums", {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}, kind="datasets")


@pytest.mark.workflow
def test_what_was_fetched_is_all_that_a_run_needs(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    folder = copy_checkout(tmp_path / "checkout")
    (folder / "far.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "far").mkdir()
    (folder / "far/sums.yaml").write_text(yaml.safe_dump(TASK))
    variables = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "no_proxy": "*"}
    arguments = ["--cores", "2", "--configfile", "far.yaml"]
    with serve() as hub:
        add_all(hub, tiny_models["base"])
        variables["HF_ENDPOINT"] = hub.address
        done = snakemake(folder, "--until", "fetch", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        made = {str(path.relative_to(folder / RUN)) for path in (folder / RUN).glob("*")}
        assert made == {"models", "fetched", "revisions", "downloads.json", "logs", "benchmarks", "config", "runs"}
        listed = json.loads((folder / RUN / "downloads.json").read_text())["downloads"]
        told = [(part["name"], part["use"], part["id"], part["revision"], part["commit"]) for part in listed]
        assert told == [
            ("large", "model", "owner/tiny", "main", commit_of(1)),
            ("sums", "task", "owner/sums", "main", commit_of(2)),
        ]
        assert all(part["bytes"] == sum(file["size"] for file in part["files"]) > 0 for part in listed)
        assert not any("huge" in line for line in hub.asked), "no track uses it"
        assert (folder / RUN / "models/large/model.safetensors").is_symlink()
        hub.asked.clear()
        done = snakemake(folder, str(RUN / "tasks/sums/record.json"), *arguments, **variables)
        assert done.returncode == 0, done.stderr
        assert hub.asked == []
    assert json.loads((folder / RUN / "tasks/sums/record.json").read_text())["sizes"]["test"] == 2
    assert load_model(folder / RUN / "models/large").num_parameters() > 0


def test_on_a_cluster_downloads_run_where_snakemake_does() -> None:
    """And they are all that may ask the network."""
    downloads = {"package", "fetch", "fetch_model", "fetch_data", "fetch_encoder"}
    assert rules_with("localrule: True") == rules_with("online=True") == downloads


def test_an_encoder_is_of_its_commit_and_needs_no_network_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, model = "test_efficientnet.r160_in1k", timm.create_model("test_efficientnet.r160_in1k")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "_silence", None)
    with serve() as hub:
        url = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        first = {key: value.contiguous() for key, value in model.state_dict().items()}
        repository = hub.add(timm_weights(name).id, {"model.safetensors": save(first), "pytorch_model.bin": b"no"})
        entry = {"source": "timm", "model": name, "pretrained": True, "revision": "main"}
        (fetched,) = fetch_encoder(entry, tmp_path)
        assert [file["name"] for file in fetched["files"]] == ["model.safetensors"]
        other = save({key: value + 1 for key, value in first.items()})
        repository.commits[commit_of(9)] = {"model.safetensors": other}
        repository.revisions["main"] = commit_of(9)
        moved = load_auxiliary(entry)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.asked.clear()
        kept = load_auxiliary({**entry, "revision": fetched["commit"]})
        assert hub.asked == []
    assert all((kept.model.state_dict()[key] == first[key]).all() for key in kept.model.state_dict())
    assert moved.fingerprint != kept.fingerprint


def test_weights_are_looked_for_where_the_libraries_do() -> None:
    assert clip_weights("ViT-B-16", "openai").id == "timm/vit_base_patch16_clip_224.openai"
    assert clip_weights("ViT-B-16", "openai").names == ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert timm_weights("resnet50").id == "timm/resnet50.a1_in1k"
    assert timm_weights("resnet50").names == ("model.safetensors", "pytorch_model.bin")
