"""Which vocabularies can be fused: common numbers mean the same tokens; what only some have stands behind them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.errors import UserError
from logitfusion.fusion import FusedLM
from logitfusion.models.load import load_model, save_model
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.models.vocabulary import check_same_vocabulary, load_shared_tokenizer

TOKENIZER = tiny_tokenizer()
ENTRIES = len(TOKENIZER)
CPU = torch.device("cpu")
Folders = dict[str, Path]


def added(*tokens: str) -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return tokenizer


def make(folder: Path, tokenizer: PreTrainedTokenizerBase, entries: int, seed: int) -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=entries, **sizes, **special))
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("vocabulary")
    pad, named = added("[PAD]"), added("[PAD]", "<t1>")
    return {
        "plain": make(root / "plain", TOKENIZER, ENTRIES, 0),
        "small": make(root / "small", TOKENIZER, ENTRIES, 1),
        "pad": make(root / "pad", pad, ENTRIES + 1, 2),
        "named": make(root / "named", named, ENTRIES + 2, 3),
        "padded": make(root / "padded", TOKENIZER, 264, 4),
        "padded pad": make(root / "padded pad", pad, 264, 5),
        "other": make(root / "other", tiny_tokenizer(pairs=True), 1555, 6),
    }


@torch.no_grad()
def greedy(models: list[PreTrainedModel], entries: int, count: int) -> list[int]:
    """Proxy-tuning's sum over the entries that all have, one plain forward each."""
    ids = TOKENIZER.encode("hi")
    for _ in range(count):
        large, base, *experts = (model(input_ids=torch.tensor([ids])).logits[0, -1, :entries] for model in models)
        ids.append(int((large + sum(expert - base for expert in experts)).argmax()))
    return ids[len(TOKENIZER.encode("hi")) :]


@pytest.mark.parametrize(
    "names",
    [
        ["plain", "small", "pad"],  # an expert's own [PAD], as Alpaca's
        ["pad", "small", "plain"],
        ["plain", "pad", "small"],
        ["plain", "small", "pad", "named"],
        ["padded", "padded", "padded pad"],  # its entry is there in all, and a token in one
        ["padded pad", "padded", "padded"],
    ],
)
def test_tokens_that_only_some_have_are_ignored(folders: Folders, names: list[str]) -> None:
    large, base, *experts = (folders[name] for name in names)
    lm = FusedLM.from_folders(large, base, experts, weights=1.0)
    assert lm.vocabulary == ENTRIES
    found = lm.generate(["hi"], max_new_tokens=6)[0].token_ids
    expected = greedy([load_model(folders[name], device=CPU) for name in names], ENTRIES, 6)
    assert found == expected[: len(found)]
    assert len(found) == 6 or found[-1] == TOKENIZER.eos_token_id


def test_equal_tokenizers_leave_the_entries_as_they_are(folders: Folders) -> None:
    assert load_shared_tokenizer([folders["padded"], folders["plain"]]).entries is None
    assert FusedLM.from_folders(folders["padded"]).vocabulary == 264


@pytest.mark.parametrize("names", [["plain", "other"], ["other", "plain"]])
def test_other_vocabularies_are_refused_by_example(folders: Folders, names: list[str]) -> None:
    with pytest.raises(UserError, match="can't be fused: their vocabularies differ"):
        load_shared_tokenizer([folders[name] for name in names])


def test_one_number_for_two_tokens_is_refused() -> None:
    with pytest.raises(UserError, match=r"'\[(PAD|END)\]' is number (259|None) in 'a' and (None|259) in 'b'"):
        check_same_vocabulary({"a": added("[PAD]", "<x>"), "b": added("[END]", "<x>")})


@pytest.mark.parametrize("place", ["prompt", "context", "continuation"])
def test_a_token_that_not_all_models_have_is_refused_in_a_text(folders: Folders, place: str) -> None:
    lm = FusedLM.from_folders(folders["pad"], folders["small"], [folders["plain"]], weights=1.0)
    text, other = "hi[PAD] there", "hi"
    with pytest.raises(UserError, match=r"'\[PAD\]', number 259, and the models share only 259 entries"):  # noqa: PT012
        match place:
            case "prompt":
                lm.generate([text], max_new_tokens=2)
            case "context":
                lm.score([text], [other])
            case "continuation":
                lm.score([other], [text])


def test_a_number_beyond_a_model_alone_is_refused(folders: Folders) -> None:
    lm = FusedLM.from_folders(folders["plain"])
    for ids in ([5, 300], [-1, 5]):
        with pytest.raises(UserError, match="the models have only 259 entries"):
            lm.generate([ids], max_new_tokens=2)


def test_an_end_that_the_small_models_lack_is_refused(folders: Folders, tmp_path: Path) -> None:
    tokenizer = added("<end>")
    tokenizer.eos_token = "<end>"
    chat = make(tmp_path / "chat", tokenizer, ENTRIES + 1, 0)
    with pytest.raises(UserError, match=r"'<end>'.*not all models of the fusion have it"):
        FusedLM.from_folders(chat, folders["small"], [folders["plain"]])
