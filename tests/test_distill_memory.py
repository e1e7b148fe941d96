"""Texts and caches at size: what a training keeps in memory does not grow with what it reads."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import ROOT
from hypothesis import given
from hypothesis import strategies as st

from logitfusion.distill.packed import PackedText, RowCode
from logitfusion.distill.shard import PLACE, SETTINGS, Shard, shard_path, write_packed
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.distill.texts import EncodedText, Spool, StoredTexts
from logitfusion.errors import UserError

NUMBERS = st.integers(0, 2**18)
TEXTS = st.lists(
    st.builds(
        EncodedText,
        ids=st.lists(NUMBERS, min_size=1, max_size=9).map(tuple),
        start=st.integers(1, 9),
        ends=st.lists(NUMBERS, max_size=9).map(tuple),
        digest=st.binary(min_size=8, max_size=8),
        between=st.lists(NUMBERS, max_size=3).map(tuple),
    ),
    max_size=9,
)
SLICES = st.slices(9)


@given(TEXTS, st.sampled_from([0, 30, 10_000]), SLICES, SLICES)
def test_stored_texts_are_those_that_were_given(
    texts: list[EncodedText], spill: int, first: slice, then: slice
) -> None:
    """In memory, on the disk and on both; and parts of parts."""
    stored = StoredTexts(iter(texts), spill)
    assert list(stored) == texts
    assert list(stored[first]) == texts[first]
    assert list(stored[first][then]) == texts[first][then]
    assert stored[first][then].digests == [text.digest for text in texts[first][then]]
    assert stored.tokens.tolist() == [len(text.ids) for text in texts]
    assert stored.labels.tolist() == [len(text.ends) for text in texts]


@pytest.mark.parametrize("spill", [0, 10_000])
def test_texts_are_handed_to_other_processes(spill: int) -> None:
    """As to a data loader's that are spawned; the file has no name, by which they could open it."""
    texts = [EncodedText(tuple(range(number, number + 9)), 4, tuple(range(5))) for number in range(50)]
    part = StoredTexts(texts, spill)[3:40:2]
    assert list(pickle.loads(pickle.dumps(part))) == texts[3:40:2]


def test_a_full_folder_of_temporary_files_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(UserError, match=r"could not be written to .*no space left.*set TMPDIR to a folder with more"):
        Spool(spill=3).append(b"four")


# ---- caches ---------------------------------------------------------------------------------------------------------

TOKENS, K = 64, 256
MANIFEST = dict.fromkeys((*SETTINGS, *PLACE), "x") | {
    "max_tokens": None, "k": K, "vocabulary": 2**24, "rounding": "fine", "shards": 1, "shard": 1, "first_text": 0,
}  # fmt: skip


class Repeated(Sequence[PackedText]):
    """The same predictions for many texts."""

    def __init__(self, texts: int) -> None:
        self.texts = texts
        log_probs = torch.linspace(-6, -7, K).log_softmax(0) + math.log(0.5)
        rows, single = (TOKENS, K), torch.full((TOKENS,), 0.5)
        parts = log_probs.expand(rows), torch.arange(K).expand(rows), single, -single, torch.arange(1, TOKENS + 1)
        self.packed = RowCode(K, MANIFEST["vocabulary"], "fine").pack(TeacherText(*parts))

    def __len__(self) -> int:
        return self.texts

    def __getitem__(self, number: int) -> PackedText:
        if number >= self.texts:
            raise IndexError(number)
        return replace(self.packed, digest=number.to_bytes(8, "big"))


TRAIN = """
import sys
from logitfusion.config.training import Recipe
from logitfusion.distill.cache import TeacherCache
from logitfusion.distill.rows import DistillationCollator, pair_texts
from logitfusion.distill.sources import CachedSource
from logitfusion.distill.texts import EncodedText, StoredTexts
from logitfusion.training.batches import order_rows

for path in sys.argv[1:]:
    source = CachedSource(TeacherCache([path]))
    count, ends = len(source.cache), tuple(range(1, 65))
    texts = StoredTexts(EncodedText((*range(74),), 10, ends, number.to_bytes(8, "big")) for number in range(count))
    rows = pair_texts(texts, {"t": source}, "bytes")
    ordered = order_rows(rows, Recipe(epochs=1, batch_size=8, seed=0).for_texts(count))
    collate = DistillationCollator(0, [source])
    for start in range(0, count, 8):
        batch = collate([ordered[place] for place in range(start, start + 8)])
        assert len(batch["teachers"][0]["groups"]) == 8 * 64
    told = open("/proc/self/status").read().splitlines()
    print(next(line.split()[1] for line in told if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts a process's memory as Linux does")
def test_memory_does_not_grow_with_a_cache(tmp_path: Path) -> None:
    """Of 16 and 133 MB, all of which is read."""
    paths = [shard_path(tmp_path / str(texts), 1, 1) for texts in (272, 2200)]
    for path, texts in zip(paths, (272, 2200), strict=True):
        path.parent.mkdir()
        write_packed(path, Repeated(texts), MANIFEST)
    assert paths[1].stat().st_size > 130e6
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *paths],
        env={"PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert large - small < 30_000  # kB


def test_a_cache_that_is_made_anew_meanwhile_is_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    write_packed(path, Repeated(3), MANIFEST)
    shard = Shard(path)
    assert shard.read(2).ends.tolist() == shard.read_ends(2).tolist() == list(range(1, TOKENS + 1))
    write_packed(path, Repeated(3), MANIFEST)
    with pytest.raises(UserError, match="has been replaced by another file while it was read"):
        shard.read(2)
    path.unlink()
    with pytest.raises(UserError, match="can't be read any more"):
        shard.read_ends(0)
