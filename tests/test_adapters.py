"""LoRA experts that are read together with their base are the experts one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.fusion.caches import CachedAdapters
from logitfusion.models.load import load_model, load_tokenizer, save_model

PROMPTS = ["Hello world", "a", "2 + 2 =", "The quick brown fox jumps over the lazy dog."]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def adapters(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three random adapters of the base, unmerged and merged."""
    root = tmp_path_factory.mktemp("adapters")
    folders: dict[str, list[Path]] = {"adapter": [], "merged": []}
    for seed in range(3):
        torch.manual_seed(seed)
        base = load_model(tiny_models["base"], device=CPU)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(root / f"adapter{seed}")
        save_model(model.merge_and_unload(), load_tokenizer(tiny_models["base"]), root / f"merged{seed}")
        folders["adapter"].append(root / f"adapter{seed}")
        folders["merged"].append(root / f"merged{seed}")
    return folders


def make(tiny_models: dict[str, Path], experts: list[Path], **options: object) -> FusedLM:
    return FusedLM.from_folders(tiny_models["large"], tiny_models["base"], experts, **options)


@pytest.mark.parametrize("speculative", [False, True])
@pytest.mark.parametrize("options", [{"weights": [0.5, -0.5, 1.0]}, {"selection": "one_hot"}, {"selection": "judged"}])
def test_shared_experts_are_the_merged_ones(
    tiny_models: dict[str, Path], adapters: dict[str, list[Path]], options: dict, speculative: bool
) -> None:
    """Batches, rows that end at different places, rolled-back drafts and thinned-out rows included."""
    shared = make(tiny_models, adapters["adapter"], **options)
    merged = make(tiny_models, adapters["merged"], **options)
    assert isinstance(shared.base, PeftModel)
    assert [type(model) for model in shared.cached_models()][1:] == [CachedAdapters]
    stop = ["e", "!"]
    found = shared.generate(PROMPTS, max_new_tokens=15, batch_size=3, stop=stop, speculative=speculative)
    expected = merged.generate(PROMPTS, max_new_tokens=15, batch_size=3, stop=stop)
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]
    assert [row.expert for row in found] == [row.expert for row in expected]


def test_shared_experts_score_as_the_merged_ones(tiny_models: dict[str, Path], adapters: dict[str, list[Path]]) -> None:
    contexts, continuations = ["a b", "a b", "c", "d"], [" c", " dd e", " f", "g"]
    found = make(tiny_models, adapters["adapter"]).score(contexts, continuations, batch_size=2)
    expected = make(tiny_models, adapters["merged"]).score(contexts, continuations)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_an_adapter_beside_a_whole_expert_is_merged(
    tiny_models: dict[str, Path], adapters: dict[str, list[Path]]
) -> None:
    mixed = make(tiny_models, [adapters["adapter"][0], adapters["merged"][1]])
    expected = make(tiny_models, adapters["merged"][:2])
    tokens = [[row.token_ids for row in lm.generate(PROMPTS, max_new_tokens=8)] for lm in (mixed, expected)]
    assert tokens[0] == tokens[1]


def test_an_adapter_of_another_base_is_refused_by_name(
    tiny_models: dict[str, Path], adapters: dict[str, list[Path]]
) -> None:
    with pytest.raises(UserError, match=r"adapter0.*trained from this base"):
        FusedLM.from_folders(tiny_models["base"], tiny_models["large"], adapters["adapter"])
