"""The teacher cache on disk: what goes in comes out, and what is broken or foreign is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flips import refuses_every_flip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from logitfusion.distill.cache import TeacherCache, find_shards
from logitfusion.distill.shard import SETTINGS, TeacherText, hash_texts, read_manifest, shard_path, write_shard
from logitfusion.errors import UserError

MANIFEST = {
    "model_hash": "m" * 64,
    "tokenizer_hash": "t" * 64,
    "vocabulary_hash": "v" * 64,
    "template": "chat",
    "data_hash": "d" * 64,
    "max_tokens": None,
    "k": 3,
    "vocabulary": 50,
    "dtype": "float32",
    "shards": 1,
    "shard": 1,
    "first_text": 0,
}


def make_text(n: int, k: int = 3, vocabulary: int = 50, seed: int = 0) -> TeacherText:
    """What a random teacher makes of n tokens."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(n, vocabulary, generator=generator).softmax(-1)
    top = probabilities.topk(k)
    labels = torch.randint(vocabulary, (n, 1), generator=generator)
    return TeacherText(
        log_probs=top.values.log(),
        ids=top.indices,
        tail=1 - top.values.sum(-1),
        label_log_probs=probabilities.gather(1, labels).log().squeeze(1),
        ends=torch.arange(1, n + 1) * 3,
        digest=seed.to_bytes(8, "big"),
    )


def assert_same(found: TeacherText, expected: TeacherText) -> None:
    """Equal but for log-probabilities, which are as exact as fp16 is."""
    assert found.digest == expected.digest
    names = [field.name for field in fields(found) if field.name != "digest"]
    assert {name: getattr(found, name).dtype for name in names} == {
        "log_probs": torch.float32,
        "ids": torch.int64,
        "tail": torch.float32,
        "label_log_probs": torch.float32,
        "ends": torch.int64,
    }
    for name in ("ids", "tail", "label_log_probs", "ends"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.log_probs.shape == expected.log_probs.shape
    exact = expected.log_probs.double()
    lost = exact < -65520  # what rounds to the end of fp16's range or beyond it
    assert found.log_probs[lost].isneginf().all()
    # Numbers below 2^-14 have fixed steps of 2^-24.
    allowed = (exact.abs() * 2**-11).clamp(min=2**-25)
    assert ((found.log_probs.double() - exact).abs() <= allowed)[~lost].all()
    assert (found.log_probs.diff(dim=1).nan_to_num(0) <= 0).all()


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """A cache of seven texts in three shards."""
    return write_cache(tmp_path, [[4, 1], [0, 6, 2], [5, 3]])


def write_cache(folder: Path, counts: Sequence[Sequence[int]], **others: Any) -> list[Path]:
    first, paths = 0, []
    for number, part in enumerate(counts, start=1):
        path = shard_path(folder, number, len(counts))
        place = {"shards": len(counts), "shard": number, "first_text": first}
        write_shard(path, [make_text(n, seed=first + i) for i, n in enumerate(part)], {**MANIFEST, **place, **others})
        first += len(part)
        paths.append(path)
    return paths


@st.composite
def caches(draw: st.DrawFn) -> tuple[list[TeacherText], int, int]:
    """Texts, k and vocabulary, with all that a teacher may predict: ties, certainty, impossible tokens."""
    k = draw(st.integers(1, 5))
    vocabulary = draw(st.sampled_from([k, 49_152, 2**16, 2**16 + 1, 262_144, 2**24]))
    probability = st.floats(0, 1, width=32)
    log_probability = st.floats(-1e5, 0, width=32) | st.sampled_from([0.0, -1e-6, -65504.0, -np.inf])
    texts = []
    for n in draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)):
        log_probs = draw(arrays.arrays(np.float32, (n, k), elements=log_probability))
        ids = draw(arrays.arrays(np.int64, (n, k), elements=st.integers(0, vocabulary - 1)))
        ends = draw(arrays.arrays(np.int64, n, elements=st.integers(0, 2**32 - 1)))
        tail = draw(arrays.arrays(np.float32, n, elements=probability))
        own = draw(arrays.arrays(np.float32, n, elements=log_probability))
        parts = (-np.sort(-log_probs), ids, tail, own, np.sort(ends))
        digest = draw(st.binary(min_size=8, max_size=8))
        texts.append(TeacherText(*(torch.from_numpy(part.copy()) for part in parts), digest))
    return texts, k, vocabulary


@settings(max_examples=150, deadline=None, derandomize=True)
@given(caches())
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, cache: tuple[list[TeacherText], int, int]
) -> None:
    texts, k, vocabulary = cache
    path = tmp_path_factory.mktemp("cache") / "shard.safetensors"
    write_shard(path, texts, {**MANIFEST, "k": k, "vocabulary": vocabulary})
    found = TeacherCache([path], {"k": k, "vocabulary": vocabulary})
    assert len(found) == len(texts)
    assert (found.k, found.vocabulary, found.tokens) == (k, vocabulary, sum(map(len, texts)))
    for one, expected in zip(found, texts, strict=True):
        assert_same(one, expected)


@pytest.mark.parametrize("vocabulary", [50, 2**16, 2**16 + 1])
def test_the_file_is_of_a_format_that_others_read(tmp_path: Path, vocabulary: int) -> None:
    path, texts = tmp_path / "x.safetensors", [make_text(4, vocabulary=vocabulary), make_text(2, vocabulary=vocabulary)]
    manifest = write_shard(path, texts, {**MANIFEST, "vocabulary": vocabulary})
    found = load_file(path)
    assert found["offsets"].tolist() == [0, 4, 6]
    ids = found["ids"].astype(np.int64) + (found["ids_high"].astype(np.int64) * 65536 if "ids_high" in found else 0)
    assert np.array_equal(ids, torch.cat([text.ids for text in texts]).numpy())
    assert np.array_equal(found["log_probs"], torch.cat([text.log_probs for text in texts]).half().numpy())
    assert np.array_equal(found["tail"], torch.cat([text.tail for text in texts]).numpy())
    assert np.array_equal(found["label_log_probs"], torch.cat([text.label_log_probs for text in texts]).numpy())
    assert np.array_equal(found["ends"], torch.cat([text.ends for text in texts]).numpy())
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["manifest"]) == manifest == read_manifest(path)


@pytest.mark.parametrize("k", [1, 10, 32, 50, 128])
@pytest.mark.parametrize("vocabulary", [200, 2**16, 2**16 + 1, 262_144])
def test_a_token_takes_few_bytes(tmp_path: Path, k: int, vocabulary: int) -> None:
    path, n = tmp_path / "x.safetensors", 7
    write_shard(path, [make_text(n, k, vocabulary)], {**MANIFEST, "k": k, "vocabulary": vocabulary})
    columns = load_file(path)
    taken = sum(column.nbytes for name, column in columns.items() if name not in ("offsets", "digests"))
    assert taken == n * TeacherCache([path]).bytes_per_token
    assert taken <= n * ((4 if vocabulary <= 2**16 else 5) * k + 12) <= n * (6 * k + 16)


def test_texts_are_found_anywhere(shards: list[Path]) -> None:
    cache = TeacherCache(reversed(shards))
    counts = [4, 1, 0, 6, 2, 5, 3]
    expected = [make_text(n, seed=i) for i, n in enumerate([4, 1])]
    expected += [make_text(n, seed=2 + i) for i, n in enumerate([0, 6, 2])]
    expected += [make_text(n, seed=5 + i) for i, n in enumerate([5, 3])]
    assert len(cache) == 7
    assert [len(text) for text in cache] == counts
    for number in (6, 0, 3, 2, 4, 5, 1):
        assert_same(cache[number], expected[number])
        assert_same(cache[number - 7], expected[number])
    for number in (7, -8):
        with pytest.raises(IndexError):
            cache[number]


def refuse(paths: Sequence[Path], expected: dict[str, Any] | None = None, **options: Any) -> str:
    """The one sentence in which a cache is refused."""
    with pytest.raises(UserError) as caught:
        TeacherCache(paths, expected, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_every_byte_counts(tmp_path: Path) -> None:
    (path,) = write_cache(tmp_path, [[1]])
    refuses_every_flip(path, lambda: TeacherCache([path]), step=7)


def test_a_part_of_a_file_is_no_shard(tmp_path: Path) -> None:
    (path,) = write_cache(tmp_path, [[2, 1]])
    good = path.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for verify in (True, False):
        for length in [*range(0, len(good), 7), len(good) - 1]:
            broken.write_bytes(good[:length])
            assert "broken.safetensors is not a whole shard" in refuse([broken], verify=verify)
    broken.write_bytes(good + b"\0")
    assert "broken.safetensors" in refuse([broken])


def test_comparing_digests_can_be_left_out(tmp_path: Path) -> None:
    (path,) = write_cache(tmp_path, [[2, 1]])
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "is damaged" in refuse([path])
    assert len(TeacherCache([path], verify=False)) == 2


def test_all_shards_are_needed(shards: list[Path], tmp_path: Path) -> None:
    for missing in range(3):
        sentence = refuse([path for number, path in enumerate(shards) if number != missing])
        assert f"Shard {missing + 1} of 3 is missing" in sentence
        assert str(tmp_path) in sentence
    assert "does not exist" in refuse([*shards, tmp_path / "other.safetensors"])
    assert "at least one file" in refuse([])


def test_a_shard_counts_once(shards: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(shards[1].read_bytes())
    sentence = refuse([*shards, copy])
    assert "copy.safetensors" in sentence
    assert shards[1].name in sentence
    assert "both shard 2 of 3" in sentence


OTHER = {"max_tokens": 100, "k": 2, "vocabulary": 51, "shards": 4}


@pytest.mark.parametrize("field", SETTINGS)
def test_shards_of_two_caches_are_not_mixed(shards: list[Path], field: str) -> None:
    value = OTHER.get(field, "other")
    k, vocabulary = (value if field == name else MANIFEST[name] for name in ("k", "vocabulary"))
    place = {"shards": 3, "shard": 2, "first_text": 2}
    texts = [make_text(n, k, vocabulary) for n in (0, 6, 2)]
    write_shard(shards[1], texts, {**MANIFEST, **place, field: value})
    sentence = refuse(shards)
    assert shards[1].name in sentence
    assert f"({field} is " in sentence
    assert repr(value) in sentence


@pytest.mark.parametrize("field", SETTINGS)
def test_a_cache_for_another_run_is_refused(shards: list[Path], field: str) -> None:
    settings = {**{name: MANIFEST[name] for name in SETTINGS}, "shards": 3}
    assert TeacherCache(shards, settings).settings == settings
    value = OTHER.get(field, "other")
    sentence = refuse(shards, {**settings, field: value})
    assert shards[0].name in sentence
    assert f"its {field} is {settings[field]!r}" in sentence
    assert repr(value) in sentence
    assert "distill-cache" in sentence


def test_only_settings_can_be_expected(shards: list[Path]) -> None:
    with pytest.raises(ValueError, match="model"):
        TeacherCache(shards, {"model": "x"})


def test_shards_go_on_where_others_end(shards: list[Path]) -> None:
    place = {"shards": 3, "shard": 3, "first_text": 4}
    write_shard(shards[2], [make_text(5)], {**MANIFEST, **place})
    assert "first_text 4" in refuse(shards)


def test_other_files_are_no_shards(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(3)}, path, {"format": "pt"})
    assert "model.safetensors is not of a teacher cache" in refuse([path])
    save_file({"weight": np.zeros(3)}, path, {"manifest": "{}"})
    assert "model.safetensors is not a whole shard" in refuse([path])
    for other in (1, 2, 4):
        save_file({"weight": np.zeros(3)}, path, {"manifest": f'{{"version": {other}}}'})
        assert f"model.safetensors has the format version {other}" in refuse([path])
    assert "is not a whole shard" in refuse([tmp_path])
    for folder in (tmp_path, str(tmp_path)):
        assert "give find_shards(" in refuse(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no teacher cache"):
        find_shards(tmp_path / "empty")
    assert find_shards(tmp_path) == [path]


class Interrupted(list):
    """Texts of which the last can't be had when it is written."""

    def __iter__(self) -> Any:
        self.rounds = getattr(self, "rounds", 0) + 1
        for number, text in enumerate(super().__iter__()):
            if self.rounds == 2 and number == len(self) - 1:
                raise KeyboardInterrupt
            yield text


def test_a_shard_is_whole_or_absent(tmp_path: Path) -> None:
    path, texts = tmp_path / "x.safetensors", Interrupted([make_text(3), make_text(2)])
    with pytest.raises(KeyboardInterrupt):
        write_shard(path, texts, MANIFEST)
    assert list(tmp_path.iterdir()) == []
    write_shard(path, texts, MANIFEST)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_shard(path, Interrupted([make_text(3), make_text(2)]), {**MANIFEST, "template": "plain"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.full((2, 3), 50)}, "vocabulary of 50"),
        ({"ids": torch.full((2, 3), -1)}, "vocabulary of 50"),
        ({"ids": torch.zeros(2, 4, dtype=torch.long)}, "shapes"),
        ({"tail": torch.zeros(3)}, "shapes"),
        ({"tail": torch.full((2,), torch.nan)}, "not a number"),
        ({"log_probs": torch.full((2, 3), torch.nan)}, "not a number"),
        ({"log_probs": torch.tensor([[-3.0, -2.0, -1.0]] * 2)}, "descending"),
        ({"ends": torch.tensor([1, 2**32])}, "ends"),
        ({"ends": torch.tensor([-1, 2])}, "ends"),
    ],
)
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor], message: str) -> None:
    text = make_text(2)
    parts = {field.name: getattr(text, field.name) for field in fields(text)} | change
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "x.safetensors", [TeacherText(**parts)], MANIFEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"k": 0}, {"k": 51}, {"vocabulary": 2**24 + 1}, {"extra": 1}])
def test_manifests_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"vocabulary|manifest"):
        write_shard(tmp_path / "x.safetensors", [make_text(2)], {**MANIFEST, **change})


def test_texts_are_known_by_their_hash() -> None:
    texts = [("ab", "c"), ("d", "é\n")]
    others = [[("a", "bc"), texts[1]], texts[::-1], texts[:1], [*texts, ("", "")], [texts[0], ("d", "e\n")], []]
    assert len({hash_texts(some) for some in [texts, *others]}) == 7
    assert hash_texts(iter(texts)) == hash_texts(texts)
