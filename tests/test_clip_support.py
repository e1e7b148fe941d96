"""Support sets: nested, stratified, and every class's draw is its own business."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.draws import draw_share, hash_seed, shuffled
from logitfusion.clip.data.support import SupportSet, draw_support, make_support, read_support, write_support
from logitfusion.errors import UserError

CLASSES = ["cat", "dog", "yak"]
POOL = [ImageRow(f"{CLASSES[n % 3]}/{n}.png", f"/images/{n}.png", n % 3, None if n % 2 else n) for n in range(20)]
labels_lists = st.lists(st.integers(0, 4), min_size=1, max_size=40)
seeds = st.integers(0, 2**40)


def names(labels: list[int]) -> list[str]:
    return [f"image {place}" for place in range(len(labels))]


def drawn_names(ids: list[str], labels: list[int], shots: int, seed: int) -> dict[int, list[str]]:
    """The drawn ids of each label, in the order of the draw."""
    drawn: dict[int, list[str]] = {label: [] for label in labels}
    for place in draw_support(ids, labels, shots, seed):
        drawn[labels[place]].append(ids[place])
    return drawn


@given(labels_lists, st.integers(1, 8), seeds)
def test_each_class_gives_its_shots_or_all_it_has(labels: list[int], shots: int, seed: int) -> None:
    drawn = draw_support(names(labels), labels, shots, seed)
    assert len(set(drawn)) == len(drawn)
    counts = Counter(labels[place] for place in drawn)
    assert counts == {label: min(shots, count) for label, count in Counter(labels).items()}
    assert [labels[place] for place in drawn] == sorted(labels[place] for place in drawn)


@given(labels_lists, st.integers(1, 7), seeds)
def test_fewer_shots_are_the_first_of_more(labels: list[int], shots: int, seed: int) -> None:
    few, more = (drawn_names(names(labels), labels, k, seed) for k in (shots, shots + 1))
    assert few == {label: ids[:shots] for label, ids in more.items()}


@given(labels_lists, st.integers(1, 8), seeds, st.data())
def test_other_classes_and_the_order_of_the_table_move_nothing(
    labels: list[int], shots: int, seed: int, data: st.DataObject
) -> None:
    ids = names(labels)
    before = drawn_names(ids, labels, shots, seed)
    order = data.draw(st.permutations(range(len(labels))))
    moved_ids = [ids[place] for place in order] + ["new 1", "new 2"]
    moved_labels = [labels[place] for place in order] + [99, 99]
    after = drawn_names(moved_ids, moved_labels, shots, seed)
    assert {label: after[label] for label in before} == before


@given(labels_lists, seeds)
def test_another_image_only_slips_in(labels: list[int], seed: int) -> None:
    ids = names(labels)
    before = drawn_names(ids, labels, len(labels), seed)
    after = drawn_names([*ids, "new"], [*labels, labels[0]], len(labels) + 1, seed)
    after[labels[0]].remove("new")
    assert after == before


def test_renumbered_classes_keep_their_images() -> None:
    """A new class changes the labels of those after it in the alphabet, not what they give."""
    labels = [0, 0, 0, 1, 1, 1]
    moved = [label + 1 for label in labels]
    before, after = (drawn_names(names(labels), some, 2, 3) for some in (labels, moved))
    assert before == {label - 1: ids for label, ids in after.items()}


def test_every_image_of_a_class_is_as_likely() -> None:
    """First places of 5 images over 5,000 seeds: a chi-squared of 4 degrees of freedom."""
    ids = names([0] * 5)
    counts = Counter(draw_support(ids, [0] * 5, 1, seed)[0] for seed in range(5000))
    statistic = sum((counts[place] - 1000) ** 2 / 1000 for place in range(5))
    assert statistic < 23.5  # the 0.9999 quantile


def test_seeds_and_purposes_give_other_orders() -> None:
    ids = names([0] * 30)
    orders = [tuple(shuffled(ids, seed, purpose)) for seed in (0, 1) for purpose in ("support", "test")]
    assert len(set(orders)) == 4


def test_seeds_of_parts_do_not_run_together() -> None:
    assert hash_seed("a", "bc") != hash_seed("ab", "c")
    assert 0 <= hash_seed("a") < 2**63


@pytest.mark.parametrize(("ids", "labels", "shots"), [(["a", "a"], [0, 0], 1), (["a", "b"], [0, 0], 0)])
def test_a_draw_that_makes_no_sense_is_refused(ids: list[str], labels: list[int], shots: int) -> None:
    with pytest.raises(ValueError, match=r"twice|at least 1"):
        draw_support(ids, labels, shots, 0)


@given(labels_lists, st.floats(0, 1), seeds)
def test_a_share_is_drawn_of_every_class(labels: list[int], share: float, seed: int) -> None:
    drawn = draw_share(names(labels), labels, share, seed, "test")
    for label, count in Counter(labels).items():
        got = sum(labels[place] == label for place in drawn)
        assert abs(got - share * count) <= (0.5 if share in (0, 1) or count < 2 else 1) + 1e-9
        if 0 < share < 1 and count > 1:
            assert 0 < got < count


# ---- the manifest -------------------------------------------------------------------------------------------------


def write(path: Path, shots: int = 4, seed: int = 7) -> SupportSet:
    support = make_support(POOL, shots, seed)
    write_support(path, support, CLASSES)
    return support


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9))
def test_the_first_of_a_support_set_is_the_smaller_one(most: int, shots: int) -> None:
    assert make_support(POOL, most, 7).first(shots) == make_support(POOL, min(most, shots), 7)


def test_a_manifest_gives_back_what_was_drawn(tmp_path: Path) -> None:
    support = write(tmp_path / "support.csv")
    again = read_support(tmp_path / "support.csv", POOL, CLASSES)
    assert again == support
    assert again.first(1) == make_support(POOL, 1, 7)


def test_a_manifest_finds_its_images_where_they_are_now(tmp_path: Path) -> None:
    write(tmp_path / "support.csv")
    moved = [ImageRow(row.id, f"/elsewhere{row.path}", row.label, row.index) for row in POOL]
    read = read_support(tmp_path / "support.csv", moved, CLASSES)
    assert all(row.path.startswith("/elsewhere") for row in read.rows)


def test_classes_that_run_short_are_counted() -> None:
    assert make_support(POOL, 16, 0).short(7) == {2: 6}
    assert make_support(POOL, 16, 0).short(6) == {}


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("cat/", "cow/", "not in the training pool"),
        (",dog,", ",yak,", "'dog'"),
        (",7,1\n", ",7,2\n", "next is 1"),
        (",7,1\n", ",8,1\n", "one seed"),
        ("rank", "place", "columns"),
        (",7,0\n", "\n", "5 cells for 7"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, old: str, new: str, word: str) -> None:
    path = tmp_path / "support.csv"
    write(path)
    spoil(path, old, new)
    with pytest.raises(UserError, match=word) as caught:
        read_support(path, POOL, CLASSES)
    assert str(path) in str(caught.value)


def test_a_manifest_with_an_image_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "support.csv"
    write(path, shots=1)
    first = path.read_text().splitlines()[1]
    path.write_text(path.read_text() + first.replace(",7,0", ",7,1") + "\n")
    with pytest.raises(UserError, match="twice"):
        read_support(path, POOL, CLASSES)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"id,path,index,label,class,seed,rank\n"])
def test_what_is_no_manifest_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "support.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"support\.csv"):
        read_support(path, POOL, CLASSES)


def test_ids_with_commas_quotes_and_letters_survive(tmp_path: Path) -> None:
    pool = [ImageRow(name, name, 0) for name in ('a,b"c.png', "größe.png", " spaced .png")]
    write_support(tmp_path / "s.csv", make_support(pool, 3, 0), ["thing"])
    read = read_support(tmp_path / "s.csv", pool, ["thing"])
    assert {row.id for row in read.rows} == {row.id for row in pool}
