"""Where models are put: counted bytes on counted cards, device maps that transformers takes, logits that meet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from architectures import FAMILIES, build, make_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.loading import Loading
from logitfusion.distill.encoding import EncodedText
from logitfusion.distill.teacher import read_teacher
from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM, caches
from logitfusion.fusion.caches import Batch, CachedModel
from logitfusion.fusion.decoding import split_logits
from logitfusion.models import device_maps
from logitfusion.models.device_maps import assign_devices, input_device, measure_blocks, measure_folder, place_folders
from logitfusion.models.load import load_model
from logitfusion.models.placement import SHARES, Block, Sized, halve, place_models
from logitfusion.stages import _models as stage_models

GB = 10**9
sizes = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)
some_models = st.lists(sizes, min_size=1, max_size=5)
some_cards = st.lists(st.integers(1, 4 * 10**6), min_size=1, max_size=6)


def sized(name: str, blocks: Sequence[int]) -> Sized:
    return Sized(name, tuple(Block((f"{name}.{number}",), size) for number, size in enumerate(blocks)))


def layers(name: str, gigabytes: float, count: int = 40) -> Sized:
    return sized(name, [int(gigabytes * GB / count)] * count)


def used(models: Sequence[Sized], places: Sequence[Sequence[int]], cards: int) -> list[int]:
    """Bytes on each card."""
    found = [0] * cards
    for model, where in zip(models, places, strict=True):
        for block, card in zip(model.blocks, where, strict=True):
            found[card] += block.size
    return found


@settings(max_examples=150, deadline=None)
@given(some_models, some_cards)
def test_every_block_has_one_card_and_no_card_more_than_its_memory(blocks: list[list[int]], cards: list[int]) -> None:
    models = [sized(f"m{number}", one) for number, one in enumerate(blocks)]
    try:
        places = place_models(models, cards)
    except UserError:
        # Filling one card after another wastes less than the largest block on each.
        largest = max(max(one) for one in blocks)
        assert sum(map(sum, blocks)) > sum(int(SHARES[-1] * card) - largest for card in cards if card)
        return
    assert [len(where) for where in places] == list(map(len, blocks))
    for card, held in enumerate(used(models, places, len(cards))):
        assert held <= SHARES[-1] * cards[card]
    assert places == place_models(models, cards)  # the same every time
    for where in places:  # a text passes the cards of a model in one direction
        assert list(where) == sorted(where)


def test_one_card_holds_all_that_fits_it() -> None:
    models = [layers("large", 26), layers("base", 13), layers("expert", 13)]
    assert all(set(where) == {0} for where in place_models(models, [100 * GB]))


def test_small_models_are_beside_the_large_one_and_not_behind_it() -> None:
    """13B and 4 x 7B in half precision on two and on eight cards of 80 GB: what the papers' largest setting needs."""
    models = [layers("large", 26), layers("base", 13.5), *(layers(f"expert_{n}", 13.5) for n in range(4))]
    on_eight = place_models(models, [80 * GB] * 8)
    assert [set(where) for where in on_eight] == [{0}, {1}, {2}, {3}, {4}, {5}]
    on_two = place_models(models, [80 * GB] * 2)
    assert all(len(set(where)) == 1 for where in on_two)
    held = used(models, on_two, 2)
    assert max(held) < 0.75 * 80 * GB


def test_a_large_model_is_parted_in_about_equal_shares() -> None:
    (where,) = place_models([layers("large", 140, 80)], [80 * GB] * 4)
    held = used([layers("large", 140, 80)], [where], 4)
    assert [card for card in held if card] == [pytest.approx(140 * GB / 3, rel=0.05)] * 3


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    fp32 = [layers("large", 52), layers("base", 27), *(layers(f"expert_{n}", 27) for n in range(4))]
    with pytest.raises(UserError) as refusal:
        place_models(fp32, [80 * GB])
    sentence = str(refusal.value)
    assert "6 models of 187 GB do not fit 1 GPU with 80 GB free" in sentence
    assert "gpus: 3" in sentence
    place_models(fp32, [80 * GB] * 3)
    with pytest.raises(UserError):
        place_models(fp32, [80 * GB] * 2)
    with pytest.raises(UserError, match=r"bfloat16 instead of float32.*or 1 experts instead of 2"):
        place_models(fp32[:4], [128 * GB])
    place_models(halve(fp32[:4]), [128 * GB])
    place_models(fp32[:3], [128 * GB])
    with pytest.raises(UserError, match=r"^The model large of 100 GB does not fit 1 GPU .* a GPU with more memory\.$"):
        place_models([layers("large", 100, 1)], [10 * GB])


# Models


def _on_meta(family: str) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(make_config(family))


def test_the_blocks_of_an_architecture_are_all_of_its_weights_each_once() -> None:
    counted = 0
    for family in FAMILIES:
        try:
            model = _on_meta(family)
        except Exception:  # these sizes make none of this family
            continue
        counted += 1
        blocks = measure_blocks(model)
        whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        assert sum(block.size for block in blocks) == whole, family
        modules = [module for block in blocks for module in block.modules]
        assert len(set(modules)) == len(modules)
        for name, _ in [*model.named_parameters(), *model.named_buffers()]:
            owners = [module for module in modules if module == "" or name.startswith(f"{module}.") or name == module]
            assert len(owners) == 1, (family, name)
    assert counted > 12


def test_layers_stay_whole_and_tied_ends_stay_together(tiny_models: dict[str, Path]) -> None:
    model = measure_folder(tiny_models["large"])
    first, *others = model.blocks
    assert set(first.modules) == {"model.embed_tokens", "model.rotary_emb", "lm_head"}
    assert [block.modules for block in others] == [*((f"model.layers.{n}",) for n in range(3)), ("model.norm",)]
    assert measure_folder(tiny_models["large"], "bfloat16").size * 2 == model.size


def test_the_stages_models_get_maps_of_the_jobs_cards_and_none_without(tiny_models: dict[str, Path]) -> None:
    folders = [tiny_models[name] for name in ("large", "base", "expert_a")]
    assert place_folders(folders, [], "auto") == [None, None, None]
    total = sum(measure_folder(folder).size for folder in folders)
    assert place_folders(folders, [2 * total], "auto") == [{"": 0}] * 3
    large = measure_folder(folders[0])
    parted, *small = place_folders(folders, [large.size, large.size], "auto")
    assert set(parted.values()) == {0, 1}
    assert parted["lm_head"] == parted["model.embed_tokens"] == 0
    assert all(set(place) == {""} for place in small)


def test_a_stage_loads_a_model_once_for_all_tasks_unless_it_has_to_move(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two cards that hold little more than the large model each; nothing is loaded here but noted."""
    total = measure_folder(tiny_models["large"]).size
    loads: list[tuple[str, object]] = []
    monkeypatch.setattr(stage_models, "free_memory", lambda: [2 * total] * 2)
    monkeypatch.setattr(
        stage_models, "load_expert", lambda folder, **options: loads.append((folder.name, options["device_map"]))
    )
    models = stage_models.Models(tiny_models, Loading(dtype="bfloat16", attention="eager"))
    models.open(["large", "base", "expert_a"])
    assert loads == [("large", {"": 0}), ("base", {"": 1}), ("expert_a", {"": 1})]
    loads.clear()
    models.open(["large", "base", "expert_b"])
    assert loads == [("expert_b", {"": 1})]
    loads.clear()
    models.open(["expert_b"])
    assert loads == [("expert_b", {"": 0})]  # alone it is on the first


def test_a_map_of_a_fusion(tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tiny_models["large"], tiny_models["base"]]
    assert assign_devices(folders, None, "auto") == [None, None]
    assert assign_devices(folders, "cpu", "auto") == [{"": torch.device("cpu")}] * 2
    for wrong in ("moon", "cuda:99", {"": "cpu"}):
        with pytest.raises(UserError, match=f"can't be put on {wrong!r}.*use auto, cpu"):
            assign_devices(folders, wrong, "auto")
    monkeypatch.setattr(device_maps, "free_memory", lambda: [10**9] * 2)
    assert assign_devices(folders, "auto", "auto") == [{"": 0}, {"": 1}]
    lm = FusedLM.from_folders(folders[0], device_map="cpu")
    assert lm.device == torch.device("cpu")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "opt", "gemma2"])
def test_a_parted_model_computes_what_the_whole_one_does(family: str, tmp_path: Path) -> None:
    """Its second half is read from the disk at every pass, through the hooks that also move texts from card to card."""
    build(family, 0).save_pretrained(tmp_path)
    whole = load_model(tmp_path, device=torch.device("cpu"))
    blocks = measure_blocks(whole)
    half = len(blocks) // 2
    places = {module: "cpu" if n < half else "disk" for n, block in enumerate(blocks) for module in block.modules}
    parted = load_model(tmp_path, device_map=places)
    assert any(parameter.device.type == "meta" for parameter in parted.parameters())
    assert input_device(parted) == torch.device("cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(parted(ids).logits, whole(ids).logits)


def test_a_fusion_of_parted_models_writes_the_same_texts(
    tiny_models: dict[str, Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    whole = [load_model(tiny_models[name], device=torch.device("cpu")) for name in ("large", "base", "expert_a")]
    parted = []
    for model, device in zip(whole, ("cpu", "disk", "cpu"), strict=True):
        modules = [module for block in measure_blocks(model) for module in block.modules]
        places = {module: device if n % 2 else "disk" for n, module in enumerate(modules)}
        parted.append(load_model(model.name_or_path, device_map=places))
    prompts, options = ["Hello", "a", "2 + 2 ="], {"max_new_tokens": 8}
    for speculative in (False, True):
        expected, found = (
            FusedLM(large, base, [expert], tokenizer=tokenizer).generate(prompts, speculative=speculative, **options)
            for large, base, expert in (whole, parted)
        )
        assert found == expected


def test_a_parted_teacher_predicts_what_the_whole_one_does(tiny_models: dict[str, Path]) -> None:
    whole = load_model(tiny_models["large"], device=torch.device("cpu"))
    modules = [module for block in measure_blocks(whole) for module in block.modules]
    places = {module: "cpu" if n % 2 else "disk" for n, module in enumerate(modules)}
    parted = load_model(tiny_models["large"], device_map=places)
    texts = [EncodedText((5, 6, 7, 8, 9), 2, (1, 2, 3)), EncodedText((5, 6, 7), 1, (1, 2))]
    found, expected = (list(read_teacher(model, texts, k=4, batch_size=2)) for model in (parted, whole))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.log_probs, other.log_probs)
        assert torch.equal(one.ids, other.ids)


# Several cards, as torch's fake tensors know them: they have devices, and refuse to be mixed as those of cards do.


def _count(batch: Batch, mask: torch.Tensor) -> None:
    batch.mask, batch.lengths = torch.cat([batch.mask, mask], dim=-1), batch.lengths + mask.sum(-1)


def _fake(family: str, device: str) -> PreTrainedModel:
    config = make_config(family)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config).eval()


def _move(module: nn.Module, device: str) -> None:
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(torch.empty(value.shape, device=device)))


def test_models_on_different_cards_read_their_own_copies_and_logits_meet_on_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading, rows that leave, tokens that are taken back, gaps that are closed: all steps of a decoding."""
    monkeypatch.setattr(caches, "refuse_not_finite", lambda models: None)  # fake tensors have no values to look at
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        models = [_fake("llama", f"cuda:{card}") for card in (0, 1, 2)]
        batch = Batch([CachedModel(model) for model in models], rows=3)
        batch.commit = lambda mask: _count(batch, mask)  # all of it, without a look
        assert batch.device == torch.device("cuda:0")
        ids = torch.ones(3, 5, dtype=torch.long, device="cuda:0")
        logits = batch.read(ids, torch.ones_like(ids), keep=2)
        assert {part.device for part in logits} == {torch.device("cuda:0")}
        batch.select_rows(torch.tensor([2, 0], device="cuda:0"))
        ahead = batch.read_ahead(batch.models[2], ids[:2, :1], torch.ones_like(ids[:2, :1]), keep=1)
        others = batch.read_all(batch.models[:2], ids[:2, :1], torch.ones_like(ids[:2, :1]), keep=1)
        large, small = split_logits([*others, ahead], 50)
        assert {large.device, small.device} == {torch.device("cuda:0")}
        assert small.shape == (2, 2, 1, 50)
        for model in batch.models:
            model.drop_last(1)
            model.select_slots(torch.zeros(2, 3, dtype=torch.long, device=model.device))
        kept = [{layer.keys.device for layer in model.cache.layers} for model in batch.models]
        assert kept == [{torch.device(f"cuda:{card}")} for card in (0, 1, 2)]
        assert all(layer.keys.shape[0] == 2 for model in batch.models for layer in model.cache.layers)


def test_the_caches_of_a_parted_model_are_on_the_cards_of_its_layers() -> None:
    """With the hooks that accelerate's dispatch_model attaches, which itself can't move fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = _fake("llama", "cuda:0")
        for number, block in enumerate(measure_blocks(model)):
            card = int(number > 1)
            for module in map(model.get_submodule, block.modules):
                _move(module, f"cuda:{card}")
                hook = AlignDevicesHook(execution_device=card, skip_keys=model._skip_keys_device_placement)
                hook.init_hook = lambda module: module
                add_hook_to_module(module, hook)
        add_hook_to_module(model, AlignDevicesHook(io_same_device=True, skip_keys=model._skip_keys_device_placement))
        cached = CachedModel(model)
        assert cached.device == torch.device("cuda:0")
        ids = torch.ones(3, 4, dtype=torch.long, device="cuda:0")
        positions = torch.arange(4, device="cuda:0").expand(3, -1)
        logits = cached.read(ids, torch.ones_like(ids), positions, keep=1)
        assert logits.device == torch.device("cuda:0")
        cached.select_rows(torch.tensor([0, 2], device="cuda:0"))
        cached.select_slots(torch.zeros(2, 3, dtype=torch.long, device="cuda:0"))
        devices = [str(layer.keys.device) for layer in cached.cache.layers]
        assert devices == ["cuda:0", *["cuda:1"] * (len(devices) - 1)]
        assert {tuple(layer.keys.shape[:3:2]) for layer in cached.cache.layers} == {(2, 3)}
