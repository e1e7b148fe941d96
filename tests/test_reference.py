"""Models that are referred to: read as a copy would be, checked at each use, and copied when a run is to be moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from architectures import build
from flips import refuses_every_flip
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig

from logitfusion import cli, integrity
from logitfusion.artefact import write_artefact
from logitfusion.config.models import PathModel
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.fusion import FusedLM
from logitfusion.integrity import RECORD, SEEN, as_rows, check_files, read_record, read_recorded, record_files
from logitfusion.models import materialise
from logitfusion.models.identity import hash_model, hash_tokenizer
from logitfusion.models.load import describe, load_model, load_tokenizer
from logitfusion.models.reference import describe_stored, refer
from logitfusion.models.source import from_path
from logitfusion.models.tiny import tiny_tokenizer
from logitfusion.provenance import fingerprint

TOKENIZER = tiny_tokenizer()
IDS = torch.arange(3, 40)[None]
NOT_NEEDED = ("consolidated.safetensors", "pytorch_model.bin", "original/params.json", "README.md", "onnx/model.onnx")


def make(folder: Path, *, shards: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A folder as people have them: weights in pieces, and other files beside them."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder, max_shard_size="60KB" if shards else "1GB")
    TOKENIZER.save_pretrained(folder)
    for name in NOT_NEEDED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "mine")


@pytest.fixture
def reference(source: Path, tmp_path: Path) -> Path:
    return refer_to(source, tmp_path / "results/run/models/large")


def refer_to(source: Path, folder: Path) -> Path:
    from_path(PathModel(source="path", path=str(source)), folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder, device=torch.device("cpu"), dtype="auto")(IDS).logits


def largest(folder: Path) -> Path:
    return max(folder.glob("model-*.safetensors"), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    """Change one bit of the last number, and leave the size."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def set_time(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_bytes_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from here on."""
    hashed: list[str] = []
    hash_files = integrity._hash

    def count(paths: dict[str, Path], title: str) -> dict[str, str]:
        hashed.extend(paths)
        return hash_files(paths, title)

    monkeypatch.setattr(integrity, "_hash", count)
    return hashed


# ---- what is referred to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [True, False])
def test_a_reference_reads_as_its_source(tmp_path: Path, shards: bool, dtype: torch.dtype) -> None:
    """Weights, tokenizer and all that is known of the model; nothing that is not needed is linked."""
    source = make(tmp_path / "mine", shards=shards, dtype=dtype)
    reference = refer_to(source, tmp_path / "reference")
    expected = AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
    with torch.no_grad():
        assert torch.equal(logits(reference), expected(IDS).logits)
    assert load_tokenizer(reference).get_vocab() == TOKENIZER.get_vocab()
    assert hash_model(reference) == hash_model(refer_to(source, tmp_path / "other"))
    assert hash_tokenizer(reference) == hash_tokenizer(source)
    known = read_json(reference / RECORD)
    facts = describe(expected)
    assert {name: known[name] for name in facts} == facts
    weights = sum(value.nbytes for value in expected.state_dict().values())
    assert (known["stored_bytes"], known["stored_dtype"]) == (weights, str(dtype).removeprefix("torch."))
    names = {str(path.relative_to(reference)) for path in reference.rglob("*") if path.is_symlink()}
    assert names == {file["name"] for file in known["files"]}
    assert not names & set(NOT_NEEDED)
    assert {path.name for path in source.glob("model*.safetensors*")} <= names


def test_a_reference_takes_no_more_than_its_record(source: Path, reference: Path) -> None:
    used = sum(path.lstat().st_size for path in reference.rglob("*") if not path.is_symlink())
    assert used == (reference / RECORD).stat().st_size
    assert used < 5000 < largest(source).stat().st_size


def test_weights_are_not_read_to_describe_them(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers alone: a file whose tensors are a hole of the disk, far larger than memory, takes no time."""
    facts = describe_stored(source)

    def forbidden(*_: object) -> None:
        raise AssertionError("a tensor was read")

    class Header:
        def __init__(self, *arguments: object, **options: object) -> None:
            self.file = safe_open(*arguments, **options)

        def __enter__(self) -> Header:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            return self.file.keys()

        def get_slice(self, name: str) -> object:
            whole = self.file.get_slice(name)
            return type("Shape", (), {
                "get_shape": staticmethod(whole.get_shape),
                "get_dtype": staticmethod(whole.get_dtype),
                "__getitem__": forbidden,
            })()  # fmt: skip

        get_tensor = forbidden

    monkeypatch.setattr("logitfusion.models.reference.safe_open", Header)
    assert describe_stored(source) == facts


@pytest.mark.parametrize("family", ["gpt2", "bloom", "mixtral", "qwen3_moe", "gemma2", "mamba", "gpt_oss"])
def test_heads_of_files_say_what_loading_would(family: str, tmp_path: Path) -> None:
    """Also where transformers renames, joins or ties what a file names."""
    build(family, 0).save_pretrained(tmp_path)
    facts = describe(load_model(tmp_path))
    found = describe_stored(tmp_path)
    assert {name: found[name] for name in facts} == facts


def lose_norm(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in folder.glob("model-*.safetensors"):
        save_file({name: value for name, value in load_file(path).items() if name != "model.norm.weight"}, path)


def point_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../mine/config.json"}}')


FAULTS = {
    "pickles alone": (lambda folder: [path.unlink() for path in folder.glob("*.safetensors*")], "pytorch_model.bin"),
    "a missing shard": (lambda folder: largest(folder).unlink(), "1 of its"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (lambda folder: [path.unlink() for path in folder.glob("*token*")], "The tokenizer in"),
    "a missing tensor": (lose_norm, "model.norm.weight"),
    "an adapter beside": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "an adapter"),
    "a cut shard": (lambda folder: os.truncate(largest(folder), 2000), "can't be read"),
    "a shard of another folder": (point_outside, "in other folders"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_could_not_be_loaded_is_refused_at_once(source: Path, tmp_path: Path, fault: str) -> None:
    damage, words = FAULTS[fault]
    damage(source)
    sentence = refused(lambda: refer_to(source, tmp_path / "reference"))
    assert words in sentence
    assert str(source) in sentence
    assert not (tmp_path / "reference").exists()


def test_the_hubs_cache_is_referred_to_through_its_own_links(source: Path, tmp_path: Path) -> None:
    """snapshots/<commit>/<file> -> ../../blobs/<digest>, read-only."""
    cache = tmp_path / "cache/models--owner--name"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(path for path in source.iterdir() if path.is_file()):
        shutil.copyfile(path, cache / "blobs" / str(number))
        (cache / "blobs" / str(number)).chmod(0o444)
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    reference = refer_to(snapshot, tmp_path / "reference")
    assert torch.equal(logits(reference), logits(source))
    assert largest(reference).readlink().parent == snapshot  # which is what is found again when it is deleted
    assert cli.main(["materialise", str(reference)]) == 0
    shutil.rmtree(cache)
    assert torch.equal(logits(reference), logits(source))
    assert os.access(largest(reference), os.W_OK)


# ---- whether it is unchanged --------------------------------------------------------------------------------------


def test_a_file_is_read_once_to_check_it(source: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first job of a run; then it is only looked at, until its times are others."""
    hashed = read_bytes_of(monkeypatch)
    load_model(reference)
    names = {file["name"] for file in read_json(reference / RECORD)["files"]}
    assert sorted(hashed) == sorted(names)
    hashed.clear()
    for use in (load_model, load_tokenizer, hash_model, hash_tokenizer, check_files):
        use(reference)
    fingerprint({}, [reference])
    assert hashed == []
    set_time(largest(source), 10**9)
    load_model(reference)
    load_model(reference)
    assert hashed == [largest(source).name]


USES = {
    "loading": load_model,
    "hashing": hash_model,
    "fingerprint": lambda folder: fingerprint({}, [folder]),
    "checking": check_files,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("seen", [False, True])
def test_a_flipped_bit_is_refused_wherever_a_model_is_used(source: Path, reference: Path, use: str, seen: bool) -> None:
    if seen:
        USES[use](reference)
    changed = largest(source)
    before = changed.stat()
    flip(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it had not been written
    sentence = refused(lambda: USES[use](reference))
    assert str(changed) in sentence
    assert str(reference) in sentence
    assert sentence.endswith("which makes all results of this model anew.")


def test_what_is_as_it_was_again_is_accepted(source: Path, reference: Path) -> None:
    content = largest(source).read_bytes()
    expected = logits(reference)
    flip(largest(source))
    refused(lambda: load_model(reference))
    largest(source).write_bytes(content)
    assert torch.equal(logits(reference), expected)


def test_another_tokenizer_is_refused(source: Path, reference: Path) -> None:
    load_tokenizer(reference)
    text = (source / "tokenizer_config.json").read_text()
    (source / "tokenizer_config.json").write_text(text + " ")
    assert "tokenizer_config.json" in refused(lambda: load_tokenizer(reference))


def test_what_is_gone_is_named(source: Path, reference: Path) -> None:
    shutil.move(source, source.with_name("moved"))
    for use in (load_model, load_tokenizer, hash_model):
        sentence = refused(lambda use=use: use(reference))
        assert str(source) in sentence
        assert "put it back, or delete the folder" in sentence
    shutil.move(source.with_name("moved"), source)
    load_model(reference)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_checked_each_time(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = read_bytes_of(monkeypatch)
    reference.chmod(0o555)
    for _ in range(2):
        check_files(reference)
    reference.chmod(0o755)
    assert len(hashed) == 2 * len(read_recorded(reference) or {})


def test_what_can_not_be_noted_is_checked_each_time(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk: no reason to fail, and none to believe what was not seen."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrity, "write_json", full)
    hashed = read_bytes_of(monkeypatch)
    for _ in range(2):
        check_files(reference)
    assert len(hashed) == 2 * len(read_recorded(reference) or {})
    hashed.clear()
    hash_model(reference)
    assert len(hashed) == len(set(hashed))  # each file once, however many pieces there are


def test_jobs_at_once_agree(reference: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({str(found) for found in pool.map(check_files, [reference] * 32)}) == 1
    assert read_json(reference / SEEN).keys() == (read_recorded(reference) or {}).keys()
    assert not list(reference.glob(".*partial*"))


def test_a_model_that_a_stage_wrote_is_checked_alike(tmp_path: Path) -> None:
    from logitfusion.config.models import RandomModel
    from logitfusion.models.source import make_random
    from logitfusion.provenance import record

    make_random(RandomModel(source="random", hidden_size=16), tmp_path)
    record(tmp_path / RECORD, {}, files=as_rows(record_files(tmp_path)))
    load_model(tmp_path)
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))  # other times, and what was seen elsewhere
    load_model(copy)
    flip(copy / "model.safetensors")
    sentence = refused(lambda: load_model(copy))
    assert sentence == (
        f"The weights in {copy} are damaged (model.safetensors has other bytes since it was written); delete the folder"
        " and run again."
    )


def test_a_damaged_model_of_another_run_is_not_referred_to(reference: Path, tmp_path: Path) -> None:
    flip(largest(reference).resolve())
    assert "which has changed since (other bytes)" in refused(lambda: refer_to(reference, tmp_path / "another"))


def test_a_broken_record_is_named(reference: Path) -> None:
    known = read_json(reference / RECORD)
    (reference / RECORD).write_text(json.dumps(known | {"files": [{"name": "x"}]}))
    assert "is damaged" in refused(lambda: load_model(reference))
    for files in ([{"name": "x"}], [known["files"][0] | {"name": "../x"}], 3):
        write_artefact(reference / RECORD, {"files": files})
        sentence = refused(lambda: load_model(reference))
        assert sentence.startswith(f"{reference / RECORD} is not of this version of logitfusion: ")


def test_every_byte_of_a_record_counts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    write_artefact(tmp_path / RECORD, {"files": as_rows(record_files(tmp_path))})
    refuses_every_flip(tmp_path / RECORD, lambda: check_files(tmp_path), step=7)


def test_every_flipped_bit_of_a_recorded_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    write_artefact(tmp_path / RECORD, {"files": as_rows(record_files(tmp_path))})
    refuses_every_flip(tmp_path / "file", lambda: check_files(tmp_path))


def test_what_was_seen_may_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    write_artefact(tmp_path / RECORD, {"files": as_rows(record_files(tmp_path))})
    check_files(tmp_path)
    content = (tmp_path / SEEN).read_bytes()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / SEEN).write_bytes(flipped)
        assert check_files(tmp_path)


def test_another_programs_record_says_nothing(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"song": "file"}')
    assert read_record(tmp_path) is read_recorded(tmp_path) is None


# ---- made whole ---------------------------------------------------------------------------------------------------


def test_a_run_is_made_whole_and_moved(
    source: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refer_to(make(tmp_path / "other", seed=1), reference.with_name("small"))
    before = [FusedLM.from_folders(folder).generate(["hello"], max_new_tokens=8)[0] for folder in _models(reference)]
    run = reference.parents[1]
    assert cli.main(["materialise", str(run)]) == 0
    assert "of large, small." in capsys.readouterr().out
    assert cli.main(["materialise", str(run)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    moved = Path(shutil.move(run, tmp_path / "moved"))
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / "other")
    assert not [path for path in moved.rglob("*") if path.is_symlink()]
    folders = _models(moved / "models/large")
    after = [FusedLM.from_folders(folder).generate(["hello"], max_new_tokens=8)[0] for folder in folders]
    assert [one.token_ids for one in after] == [one.token_ids for one in before]
    flip(largest(moved / "models/large"))
    assert "are damaged" in refused(lambda: load_model(moved / "models/large"))


def _models(reference: Path) -> list[Path]:
    return [reference, reference.with_name("small")]


def test_a_full_disk_leaves_the_reference_whole(
    source: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, copy_file, calls = logits(source), materialise._copy, []

    def fill(*arguments: object) -> str:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return copy_file(*arguments)

    monkeypatch.setattr(materialise, "_copy", fill)
    assert cli.main(["materialise", str(reference)]) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert torch.equal(logits(reference), expected)
    assert not list(reference.glob(".*partial*"))
    assert sum(path.is_symlink() for path in reference.iterdir()) == len(read_recorded(reference) or {}) - 2
    assert cli.main(["materialise", str(reference)]) == 0
    assert torch.equal(logits(reference), expected)


def test_too_small_a_disk_is_told_before_anything_is_copied(
    reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = shutil.disk_usage(reference)._replace(free=1000)
    monkeypatch.setattr(materialise.shutil, "disk_usage", lambda _: free)
    assert cli.main(["materialise", str(reference)]) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert all(path.is_symlink() for path in reference.glob("model*"))


def test_a_second_process_may_copy_the_same(
    reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    links, copy = materialise.find_links(reference), materialise._copy

    def overtaken(*arguments: object) -> str:
        digest = copy(*arguments)
        monkeypatch.setattr(materialise, "_copy", copy)
        materialise.materialise(links)
        return digest

    monkeypatch.setattr(materialise, "_copy", overtaken)
    assert cli.main(["materialise", str(reference)]) == 0
    load_model(reference)
    assert not [path for path in reference.iterdir() if path.is_symlink() or "partial" in path.name]


def test_what_has_changed_is_not_copied(source: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(largest(source))
    assert cli.main(["materialise", str(reference)]) == 1
    assert str(largest(source)) in capsys.readouterr().err
    assert largest(reference).is_symlink()


def test_a_folder_without_models_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert cli.main(["materialise", str(folder)]) == 1
        assert str(folder) in capsys.readouterr().err


def test_what_a_hub_states_is_not_hashed_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {file["name"]: file["sha256"] for file in read_json(refer_to(source, tmp_path / "a") / RECORD)["files"]}
    hashed = read_bytes_of(monkeypatch)
    refer(source, tmp_path / "b", {}, names=[*digests], digests=digests, commit="0" * 40)
    assert hashed == []
    assert read_json(tmp_path / "b" / RECORD)["commit"] == "0" * 40
    load_model(tmp_path / "b")
    wrong = digests | {largest(source).name: "0" * 64}
    refer(source, tmp_path / "c", {}, names=[*digests], digests=wrong)
    refused(lambda: load_model(tmp_path / "c"))


def test_files_may_have_any_size(tmp_path: Path) -> None:
    """Options end at 10^9, and models' files don't."""
    write_artefact(tmp_path / RECORD, {"files": [{"name": "a.safetensors", "size": 10**12, "sha256": "0" * 64}]})
    assert read_recorded(tmp_path)["a.safetensors"].size == 10**12
