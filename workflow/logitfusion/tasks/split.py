"""Test, validation and training documents that never share a prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from logitfusion.config.tasks import Splits
from logitfusion.errors import UserError
from logitfusion.tasks.harness import Leaf
from logitfusion.tasks.prompts import make_completion, make_context


@dataclass(frozen=True)
class Picked:
    """A document that was chosen: the leaf it is of, and its number among processed documents of a split."""

    leaf: Leaf
    split: str
    index: int

    @property
    def document(self) -> dict[str, object]:
        """What it holds."""
        return self.leaf.documents(self.split)[self.index]

    @property
    def prompt(self) -> str:
        """Without examples."""
        return make_context(self.leaf, self.document)

    @property
    def key(self) -> str:
        """What documents are told apart by, without case and spacing: the answer where the prompt is blank."""
        return _plain(self.prompt) or _plain(make_completion(self.leaf, self.document))


@dataclass
class Cut:
    """A task's documents.

    Attributes:
        left_out: training documents whose prompt is that of a test or validation document.
        leaves_cut: those that learn from the split that they are evaluated on.
    """

    test: list[Picked] = field(default_factory=list)
    validation: list[Picked] = field(default_factory=list)
    train: list[Picked] = field(default_factory=list)
    left_out: int = 0
    leaves_cut: list[Leaf] = field(default_factory=list)


def cut_documents(leaves: Sequence[Leaf], sizes: Splits, task: str) -> Cut:
    """Choose a task's documents.

    Those of the evaluation split are tested in their order. Where the training split is the evaluation split, its
    documents are shuffled and cut: test, validation, train, one document a distinct prompt. Elsewhere validation comes
    from the validation split, if that is not the evaluated one, or else from the training split.

    Raises:
        UserError: there are not enough documents, or no training split.
    """
    seed = _find_seed(leaves, sizes)
    cut = Cut()
    pool: list[Picked] = []
    shuffled = False
    for leaf in leaves:
        if training_split(leaf, sizes) == leaf.evaluated_split:
            tested, rest = _cut_split(leaf, sizes, seed, task, len(leaves))
            cut.leaves_cut.append(leaf)
            cut.test += tested
            pool += rest
            shuffled = len(leaves) == 1
        else:
            cut.test += [Picked(leaf, leaf.evaluated_split, index) for index in range(_tested(leaf, sizes))]
            drawn = sizes.train or (sizes.validation and not _validation_split(leaf, sizes))
            pool += _all_of(leaf, training_split(leaf, sizes)) if drawn else []  # else it was not even fetched
    if not (sizes.train or sizes.validation):
        return cut
    if seed is not None and not shuffled:
        random.Random(seed).shuffle(pool)
    _draw(cut, pool, _validation_pool(leaves, sizes, seed), sizes, task)
    return cut


def training_split(leaf: Leaf, sizes: Splits) -> str | None:
    """The split that is learnt from: the config's, else the definition's."""
    return sizes.training_split or leaf.config.training_split


def _validation_split(leaf: Leaf, sizes: Splits) -> str | None:
    """The definition's, if it is neither evaluated nor learnt from, and the evaluated one is not learnt from."""
    split, training = leaf.config.validation_split, training_split(leaf, sizes)
    apart = split not in (leaf.evaluated_split, training) and training != leaf.evaluated_split
    return split if apart else None


def _find_seed(leaves: Sequence[Leaf], sizes: Splits) -> int | None:
    """The config's seed, else the definition's, which may be null; else 0."""
    if sizes.split_seed is not None:
        return sizes.split_seed
    return (leaves[0].config.metadata or {}).get("split_seed", 0)


def _tested(leaf: Leaf, sizes: Splits) -> int:
    return min(sizes.test or len(leaf.eval_docs), len(leaf.eval_docs))


def _all_of(leaf: Leaf, split: str | None) -> list[Picked]:
    return [] if split is None else [Picked(leaf, split, index) for index in range(len(leaf.documents(split)))]


def _cut_split(
    leaf: Leaf, sizes: Splits, seed: int | None, task: str, leaves: int
) -> tuple[list[Picked], list[Picked]]:
    """The test documents of a split that is learnt from too, and all others."""
    first: dict[str, Picked] = {}
    for picked in _all_of(leaf, leaf.evaluated_split):
        first.setdefault(picked.key, picked)
    distinct = list(first.values())
    if sizes.test is None and leaves > 1:
        raise UserError(
            f"The tasks of {task!r} are trained on what they are evaluated on: say with the key test how many documents"
            " of each are kept for the test."
        )
    tested = len(distinct) - sizes.train - sizes.validation if sizes.test is None else sizes.test
    needed = tested + (sizes.train + sizes.validation if leaves == 1 else 0)
    if tested < 1 or needed > len(distinct):
        raise UserError(
            f"Task {task!r} asks for {max(needed, needed - tested + 1)} documents (train + validation + test), and its"
            f" split {leaf.evaluated_split!r} has {len(distinct)} distinct ones; lower the sizes."
        )
    if seed is not None:
        random.Random(seed).shuffle(distinct)
    return distinct[:tested], distinct[tested:]


def _validation_pool(leaves: Sequence[Leaf], sizes: Splits, seed: int | None) -> list[Picked] | None:
    """All documents of validation splits that are neither evaluated nor learnt from; None where there are none."""
    pool: list[Picked] = []
    for leaf in leaves:
        pool += _all_of(leaf, _validation_split(leaf, sizes))
    if seed is not None:
        random.Random(seed).shuffle(pool)
    return pool or None


def _draw(cut: Cut, pool: list[Picked], validation: list[Picked] | None, sizes: Splits, task: str) -> None:
    """Validation documents, then training documents, with no prompt of those that were drawn before."""
    taken = {picked.key for picked in cut.test}
    rest = iter(pool)
    cut.validation = list(_take(iter(validation) if validation else rest, sizes.validation, taken, cut))
    cut.train = list(_take(rest, sizes.train, taken, cut, distinct=False))
    for name in ("validation", "train"):
        found, asked = len(getattr(cut, name)), getattr(sizes, name)
        if found < asked:
            raise UserError(
                f"Task {task!r} asks for {asked} documents for {name}, and there are {found} whose prompt is not that"
                " of another one (test and validation come first); lower the sizes."
            )


def _take(rest: Iterator[Picked], number: int, taken: set[str], cut: Cut, distinct: bool = True) -> Iterator[Picked]:
    """The next so many documents whose prompt is not taken; what is passed over is counted."""
    found = 0
    while found < number:
        picked = next(rest, None)
        if picked is None:
            return
        key = picked.key
        if key in taken:
            cut.left_out += 1
            continue
        if distinct:
            taken.add(key)
        found += 1
        yield picked


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
