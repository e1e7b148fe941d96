"""The teacher cache on disk: what goes in comes out, and what is broken or foreign is refused in one sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from checkout import ROOT
from flips import refuses_every_flip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rounded import assert_same
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file

from logitfusion.config.distill import Rounding
from logitfusion.distill.cache import PackedTexts, TeacherCache, find_shards
from logitfusion.distill.packed import RowCode
from logitfusion.distill.sets import SetCode
from logitfusion.distill.shard import SETTINGS, hash_texts, read_manifest, shard_path, write_packed, write_shard
from logitfusion.distill.teacher_text import TeacherText
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
    "rounding": "fine",
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
def caches(draw: st.DrawFn) -> tuple[list[TeacherText], dict[str, Any]]:
    """Texts, and k, vocabulary and rounding, with all that a teacher may predict: ties, certainty, impossible tokens.

    Every other text is of numbers that are no probabilities of anything.
    """
    k = draw(st.integers(1, 5))
    vocabulary = draw(st.sampled_from([k, 49_152, 2**16, 2**16 + 1, 262_144, 2**24]))
    probability = st.floats(0, 1, width=32)
    log_probability = st.floats(-1e5, 0, width=32) | st.sampled_from([0.0, -1e-6, -65504.0, -np.inf])
    texts = []
    for n in draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)):
        log_probs = -np.sort(-draw(arrays.arrays(np.float32, (n, k), elements=log_probability)))
        ids = draw(arrays.arrays(np.int64, (n, k), elements=st.integers(0, vocabulary - 1)))
        ends = draw(arrays.arrays(np.int64, n, elements=st.integers(0, 2**32 - 1)))
        tail = draw(arrays.arrays(np.float32, n, elements=probability))
        own = draw(arrays.arrays(np.float32, n, elements=log_probability))
        if draw(st.booleans()):
            log_probs *= draw(st.sampled_from([1e-5, 1e-4, 1.0]))
            with np.errstate(divide="ignore", invalid="ignore"):
                shift = (np.log1p(-tail) - np.logaddexp.reduce(log_probs, axis=1))[:, None]
                log_probs = np.where(np.isfinite(shift), log_probs + shift, log_probs).astype(np.float32)
        parts = (log_probs, ids, tail, own, np.sort(ends))
        digest = draw(st.binary(min_size=8, max_size=8))
        texts.append(TeacherText(*(torch.from_numpy(part.copy()) for part in parts), digest))
    return texts, {"k": k, "vocabulary": vocabulary, "rounding": draw(st.sampled_from(get_args(Rounding)))}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(caches())
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, cache: tuple[list[TeacherText], dict[str, Any]]
) -> None:
    texts, form = cache
    path = tmp_path_factory.mktemp("cache") / "shard.safetensors"
    write_shard(path, texts, {**MANIFEST, **form})
    found = TeacherCache([path], form)
    assert len(found) == len(texts)
    assert (found.k, found.vocabulary, found.tokens) == (form["k"], form["vocabulary"], sum(map(len, texts)))
    for number, (one, expected) in enumerate(zip(found, texts, strict=True)):
        assert_same(one, expected, form["rounding"])
        assert found.ends(number).tolist() == expected.ends.tolist()


def read_bits(row: np.ndarray, first: int, count: int) -> int:
    """The number that so many bits of a row come to, one by one."""
    bits = [int(row[place // 8]) >> (7 - place % 8) & 1 for place in range(first, first + count)]
    return sum(bit << count - 1 - place for place, bit in enumerate(bits))


@pytest.mark.parametrize(("vocabulary", "lower"), [(50, 4), (2**16, 14), (2**16 + 1, 14), (3, 0)])
@pytest.mark.parametrize(("rounding", "bits"), [("fine", 11), ("coarse", 6)])
def test_the_file_is_of_a_format_that_others_read(
    tmp_path: Path, vocabulary: int, lower: int, rounding: Rounding, bits: int
) -> None:
    path, texts = tmp_path / "x.safetensors", [make_text(4, vocabulary=vocabulary), make_text(2, vocabulary=vocabulary)]
    manifest = write_shard(path, texts, {**MANIFEST, "vocabulary": vocabulary, "rounding": rounding})
    file = load_file(path)  # of torch, which has bfloat16
    assert file["offsets"].tolist() == [0, 4, 6]
    found = torch.cat([text.log_probs for text in TeacherCache([path])]).tolist()
    ids = torch.cat([text.ids for text in texts]).tolist()
    for place, row in enumerate(file["codes"].numpy()):
        uppers = 3 + (vocabulary - 1 >> lower)
        ones = [bit for bit in range(uppers) if read_bits(row, bit, 1)]
        fields = [read_bits(row, uppers + number * (lower + bits), lower + bits) for number in range(3)]
        numbers = [(one - number) << lower | fields[number] >> bits for number, one in enumerate(ones)]
        assert numbers == sorted(ids[place])
        below = [float(file["steps"][place]) * (field % 2**bits) for field in fields]
        norm = math.log1p(-file["tail"][place]) - math.log(sum(math.exp(-value) for value in below))
        assert sorted(found[place]) == pytest.approx(sorted(norm - value for value in below), abs=1e-6)
    label = torch.cat([text.label_log_probs for text in texts])
    assert torch.equal(file["label_log_probs"], label if rounding == "fine" else label.half())
    assert torch.equal(file["tail"], torch.cat([text.tail for text in texts]))
    assert file["spans"].tolist() == [3] * 6
    assert file["exact_rows"].tolist() == []
    with safe_open(path, "np") as opened:
        assert json.loads(opened.metadata()["manifest"]) == manifest == read_manifest(path)


@pytest.mark.parametrize("k", [1, 10, 32, 50, 128])
@pytest.mark.parametrize("vocabulary", [200, 2**16, 2**16 + 1, 262_144])
def test_a_token_takes_few_bytes(tmp_path: Path, k: int, vocabulary: int) -> None:
    path, n = tmp_path / "x.safetensors", 7
    for rounding, bits in (("fine", 11), ("coarse", 6)):
        manifest = {**MANIFEST, "k": k, "vocabulary": vocabulary, "rounding": rounding}
        write_shard(path, [make_text(n, k, vocabulary)], manifest)
        columns = load_file(path)
        taken = sum(column.nbytes for name, column in columns.items() if name not in ("offsets", "digests"))
        assert taken == n * TeacherCache([path]).bytes_per_token
        assert taken <= n * (k * (2 + math.log2(vocabulary / k) + bits) / 8 + 12)


@pytest.mark.parametrize(("vocabulary", "fine", "coarse"), [(49_152, 160, 121), (262_144, 210, 160)])
def test_a_token_takes_what_it_may(vocabulary: int, fine: int, coarse: int) -> None:
    assert RowCode(50, vocabulary, "fine").row_bytes(longest=255) <= fine
    assert RowCode(50, vocabulary, "coarse").row_bytes(longest=255) <= coarse


def test_the_page_counts_as_the_code_does() -> None:
    page = (ROOT / "docs/methods/distillation.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| [^|]+ \| ([\d, ]+) \| ([\d, ]+) \|$", page[page.index("bytes a token, k = 50") :], re.M)
    counted = []
    for vocabulary in (49_152, 262_144):
        codes = [RowCode(50, vocabulary, rounding) for rounding in get_args(Rounding)]
        sets = math.comb(vocabulary, 50).bit_length() / 8
        ids, coded = SetCode(50, vocabulary, 0).bytes, [code.sets.bytes for code in codes]
        rows = [code.row_bytes(longest=255) for code in codes]
        counted.append([f"{sets:.0f}", f"{ids}", "{}, {}".format(*coded), "{}, {}".format(*rows)])
    assert told[:4] == list(zip(*counted, strict=True))


def test_a_row_that_can_not_be_rounded_is_kept_exactly(tmp_path: Path) -> None:
    """An excluded token, and two likely ones far above the last, beside rows that are rounded."""
    path, text = tmp_path / "x.safetensors", make_text(4)
    text.log_probs[1] = torch.tensor([-0.7, -0.8, -torch.inf])
    text.log_probs[3] = torch.tensor([-0.7, -0.8, -400.0])
    text.tail[1] = text.tail[3] = 1 - math.exp(-0.7) - math.exp(-0.8)
    write_shard(path, [make_text(2), text, make_text(3)], MANIFEST)
    (_, found, _) = cache = TeacherCache([path])
    assert load_file(path)["exact_rows"].tolist() == [3, 5]
    assert torch.equal(found.log_probs[1::2], text.log_probs[1::2])
    assert torch.equal(found.ids[1::2], text.ids[1::2])
    again = tmp_path / "again.safetensors"
    write_packed(again, PackedTexts(cache), MANIFEST)
    assert again.read_bytes() == path.read_bytes()


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


def test_a_damaged_row_is_no_set(tmp_path: Path) -> None:
    (path,) = write_cache(tmp_path, [[2, 1]])
    whole, codes = path.read_bytes(), load_file(path)["codes"][0].numpy().tobytes()
    place = whole.rindex(codes)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
    cache = TeacherCache([path], verify=False)
    with pytest.raises(UserError, match=r"-of-00001\.safetensors is damaged .* make it anew"):
        cache[0]
    assert len(cache[1]) == 1


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


OTHER = {"max_tokens": 100, "k": 2, "vocabulary": 51, "rounding": "coarse", "shards": 4}


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
    for other in (1, 2, 3, 5):
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
    code = RowCode(MANIFEST["k"], MANIFEST["vocabulary"], "fine")
    path, texts = tmp_path / "x.safetensors", list(map(code.pack, [make_text(3), make_text(2)]))
    with pytest.raises(KeyboardInterrupt):
        write_packed(path, Interrupted(texts), MANIFEST)
    assert list(tmp_path.iterdir()) == []
    write_packed(path, texts, MANIFEST)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_packed(path, Interrupted(texts), {**MANIFEST, "template": "plain"})
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
        ({"ends": torch.tensor([2, 1])}, "ends"),
    ],
)
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor], message: str) -> None:
    text = make_text(2)
    parts = {field.name: getattr(text, field.name) for field in fields(text)} | change
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "x.safetensors", [TeacherText(**parts)], MANIFEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"k": 0}, {"k": 51}, {"vocabulary": 2**24 + 1}, {"rounding": "half"}, {"extra": 1}])
def test_manifests_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"vocabulary|manifest|rounding"):
        write_shard(tmp_path / "x.safetensors", [make_text(2)], {**MANIFEST, **change})


def test_texts_are_known_by_their_hash() -> None:
    texts = [("ab", "c"), ("d", "é\n")]
    others = [[("a", "bc"), texts[1]], texts[::-1], texts[:1], [*texts, ("", "")], [texts[0], ("d", "e\n")], []]
    assert len({hash_texts(some) for some in [texts, *others]}) == 7
    assert hash_texts(iter(texts)) == hash_texts(texts)
