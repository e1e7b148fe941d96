"""Images of equal content: found by their bytes, told by name, held out together."""

from __future__ import annotations

import pytest
import torch

from logitfusion.clip.data.duplicates import count_learnt, describe_duplicates, find_duplicates, groups
from logitfusion.clip.fitting.selection import stratified_folds

DIGESTS = ["a", "b", "a", "c", "b", "b"]


def test_groups_are_equal_where_contents_are() -> None:
    assert groups(DIGESTS).tolist() == [0, 1, 0, 2, 1, 1]
    assert groups([]).tolist() == []


def test_copies_are_named_and_those_of_two_classes_apart() -> None:
    found = find_duplicates(list("uvwxyz"), DIGESTS, [0, 1, 0, 1, 1, 0])
    assert found.sets == [["u", "w"], ["v", "y", "z"]]
    assert found.at_odds == [["v", "y", "z"]]
    first, second = describe_duplicates(found)
    assert first.startswith("3 images are copies")
    assert "u = w; v = y = z" in first
    assert second.startswith("1 picture is in more than one class")
    assert describe_duplicates(find_duplicates(["u", "v"], ["a", "b"], [0, 0])) == []


def test_long_lists_are_cut() -> None:
    digests = [str(number // 5) for number in range(50)]
    (line,) = describe_duplicates(find_duplicates([f"i{number}" for number in range(50)], digests, [0] * 50))
    assert "40 images are copies" in line
    assert "and 7 more" in line
    assert "i2 = ..." in line
    assert "i3" not in line


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_in_one_fold(seed: int) -> None:
    digests = [str(number // 2) for number in range(16)]
    folds = stratified_folds(torch.arange(16) % 4 // 2, 4, seed, groups(digests))
    assert torch.equal(folds[::2], folds[1::2])
    assert len(folds.unique()) == 4


def test_images_that_were_learnt_are_counted() -> None:
    assert count_learnt(DIGESTS, ["b", "z"]) == 3
    assert count_learnt(DIGESTS, []) == 0
