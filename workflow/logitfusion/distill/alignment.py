"""Which tokens of a student and of a teacher cover the same bytes of a response.

Of a group of several tokens, the last position's distribution times the probabilities of the tokens before it stands
for the group (the shifted chain rule): its entry for the last token is the probability of the whole group.

TRL's GOLD trainer (``trl.experimental.gold``, ``ULDLoss`` with extended ULD) aligns by bytes as well, and of whole
responses its groups are these. Its merging ``"bayesian"`` is the shifted chain rule, so that over whole vocabularies
its loss of a text is ``terms.uld_of_predictions`` divided by the number of groups. Unlike here,

* its default merging, ``"observed"``, multiplies a group's *first* distribution by the chances of the later tokens, and
  reads all of them from the logits behind each token instead of before it: no probability of the group comes out;
* earlier tokens have a probability of at least 1e-8; here it is not bounded, as logarithms are exact down to 0;
* what is left after the last common byte, as of a text that was cut, is one more group, although its sides cover
  unlike bytes; here it is in no group;
* tokens without bytes open the next group; here they belong to the bytes that they follow;
* it takes a mean over groups, then over texts, so that tokens of short texts weigh more; here ``distill_loss`` divides
  by the student's tokens of the whole step, as its cross-entropy does;
* it needs both models' logits at once; over the top-k of a cache, what is missing is at most the tails.

``tests/test_distill_gold.py`` holds them against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitfusion.distill.selection import working_dtype
from logitfusion.tensors import check_count, check_floats, check_int64

SIDES = ("student", "teacher")


def align(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> Tensor:
    """The smallest groups of tokens that both sides have in common.

    A group closes where tokens of both sides end at the same byte, and takes in tokens without bytes that follow
    there. Tokens after the last such byte (of a text that was cut) are in no group. What closes a response is a group
    of its own, provided that both sides have tokens up to the text's last byte.

    Args:
        student_ends: the byte where each token of the response ends, not descending; ``EncodedText.ends``.
        teacher_ends: the teacher's, of the same response.

    Returns:
        ``[G, 4]`` int64: first and last token of the student, first and last token of the teacher, both inclusive and
        counted from the response's first token. Equal ends without repetition give one group a token.

    Raises:
        ValueError: descending ends, or some that are no numbers of bytes.
    """
    sides = [_check_ends(name, ends) for name, ends in zip(SIDES, (student_ends, teacher_ends), strict=True)]
    common = np.intersect1d(*sides)
    after = [np.searchsorted(ends, common, side="right") for ends in sides]  # the next token that ends later
    first = [np.concatenate([[0], places[:-1]])[: len(common)] for places in after]
    groups = np.stack([first[0], after[0] - 1, first[1], after[1] - 1], axis=1)
    return torch.from_numpy(groups.astype(np.int64))


def _check_ends(name: str, ends: Sequence[int]) -> NDArray[np.int64]:
    found = np.asarray(ends if len(ends) else np.zeros(0, dtype=np.int64))
    if found.dtype.kind not in "iub" or found.ndim != 1 or (len(found) and found.min() < 0):
        raise ValueError(f"the ends of the {name}'s tokens are whole numbers of at least 0, of bytes")
    found = found.astype(np.int64)
    if (np.diff(found) < 0).any():
        raise ValueError(f"the ends of the {name}'s tokens descend: they are bytes of one text, in its order")
    return found


def truncate(student_count: int, teacher_count: int) -> Tensor:
    """The published fallback for one text: its i-th token against the i-th, and the longer side's rest in no group.

    Args:
        student_count, teacher_count: tokens of the response on each side.

    Returns:
        ``[G, 4]`` int64 as from ``align``, G the smaller count.
    """
    for name, count in zip(SIDES, (student_count, teacher_count), strict=True):
        check_count(f"the {name}'s count", count, 0)
    return pair_in_order(torch.tensor([student_count]), torch.tensor([teacher_count]))


def pair_in_order(student_counts: Tensor, teacher_counts: Tensor) -> Tensor:
    """The published fallback for a batch, whose positions are counted through: groups of one position each.

    Args:
        student_counts, teacher_counts: positions of each text, ``[B]`` int64.

    Returns:
        ``[G, 4]`` int64.
    """
    shorter = torch.minimum(student_counts, teacher_counts)
    text = torch.arange(len(shorter), device=shorter.device).repeat_interleave(shorter)
    offset = torch.arange(len(text), device=shorter.device) - _starts(shorter)[text]
    first, second = (_starts(counts)[text] + offset for counts in (student_counts, teacher_counts))
    return torch.stack([first, first, second, second], dim=1)


def _starts(counts: Tensor) -> Tensor:
    """The first position of each text."""
    return counts.cumsum(0) - counts


def share(groups: Sequence[Tensor], student_counts: Sequence[int]) -> dict[str, float]:
    """How the student's tokens fared, over all texts, for the log.

    Args:
        groups: of each text, ``[G, 4]``.
        student_counts: the student's tokens of each response.

    Returns:
        Shares of the student's tokens that sum to 1 (all 0 without a token): ``"one_to_one"``, alone in a group with
        one token of the teacher; ``"merged"``, in other groups; ``"dropped"``, in none.
    """
    total = sum(student_counts)
    one_to_one = grouped = 0
    for group, count in zip(groups, student_counts, strict=True):
        students, teachers = (group[:, 1] - group[:, 0] + 1, group[:, 3] - group[:, 2] + 1)
        if students.sum() > count:
            raise ValueError(f"groups of {int(students.sum())} student tokens don't belong to a text of {count}")
        one_to_one += int(((students == 1) & (teachers == 1)).sum())
        grouped += int(students.sum())
    counts = {"one_to_one": one_to_one, "merged": grouped - one_to_one, "dropped": total - grouped}
    return {name: count / total if total else 0.0 for name, count in counts.items()}


def check_groups(groups: Tensor, side: str, tokens: int) -> tuple[Tensor, Tensor]:
    """The first and the last token of each group on one side, ``[G]`` both, which has so many tokens.

    Raises:
        TypeError: groups that are not int64.
        ValueError: an unknown side, other shapes than ``[G, 4]``, or groups of tokens that are not there.
    """
    if side not in SIDES:
        raise ValueError(f"side is one of {SIDES}, not {side!r}")
    check_int64(groups=groups)
    if groups.ndim != 2 or groups.shape[1] != 4:
        raise ValueError(f"groups are [G, 4], not {tuple(groups.shape)}")
    column = 2 * SIDES.index(side)
    first, last = groups[:, column], groups[:, column + 1]
    wrong = (first < 0) | (last < first) | (last >= tokens)
    if wrong.any():
        named = [int(part[wrong][0]) for part in (first, last)]
        raise ValueError(f"groups name tokens {named[0]} to {named[1]} of the {side}, which has {tokens}")
    return first, last


def group_factors(label_log_probs: Tensor, groups: Tensor, side: str) -> Tensor:
    """The logarithm of what the last distribution of each group is multiplied by (shifted chain rule).

    That is the sum of the log-probabilities of all the group's tokens but the last.

    Args:
        label_log_probs: ``[n]``, any float type, in nats: of each token of the response, given all before it.
        groups: ``[G, 4]`` int64.
        side: ``"student"`` or ``"teacher"``, whose log-probabilities these are.

    Returns:
        ``[G]``, fp32 (float64 for float64); exactly 0 for groups of one token. -inf where an earlier token of this very
        group is impossible. Gradients flow to the earlier tokens.

    Raises:
        TypeError: groups that are not int64, log-probabilities that are no floating-point numbers.
        ValueError: an unknown side, or groups of tokens that are not there.
    """
    check_floats(label_log_probs=label_log_probs)
    if label_log_probs.ndim != 1:
        raise ValueError(f"label_log_probs is [n], not {tuple(label_log_probs.shape)}")
    first, last = check_groups(groups, side, len(label_log_probs))
    # Sums of each group by itself: differences of one running sum would make NaN of everything after a -inf.
    lengths = last - first
    owner = torch.repeat_interleave(lengths)
    places = first[owner] + torch.arange(len(owner), device=owner.device) - (lengths.cumsum(0) - lengths)[owner]
    values = label_log_probs.to(working_dtype(label_log_probs.dtype))
    device = values.device
    return values.new_zeros(len(groups)).index_add(0, owner.to(device), values[places.to(device)])
