"""What of a config would make a job smaller, the mildest first."""

from __future__ import annotations

from typing import Any

from logitfusion.plan.jobs import Edit


def halves(size: int | str) -> list[int]:
    """Smaller batches, the largest first."""
    found = []
    while size != "auto" and size > 1:
        size //= 2
        found.append(size)
    return found


def more_cards(cards: int, most: int) -> list[int]:
    """More GPUs than a job has now, up to the most that there are."""
    return [count for count in (2, 4, 8, 16) if cards < count <= most]


def decoding_edits(places: list[str], batches: list[int | str], cards: int) -> list[Edit]:
    """Smaller batches, as they are said at some places, then more cards, at the first of these."""
    largest = "auto" if "auto" in batches else max(batches)
    edits: list[Edit] = [{f"{place}.batch_size": size for place in places} for size in halves(largest)]
    return edits + [{f"{places[0]}.gpus": count} for count in more_cards(1, cards)]


def training_edits(place: str, recipe: Any, cards: int) -> list[Edit]:
    """In the order of how little they change: what is computed, then where, then what is trained."""
    edits: list[Edit] = [{f"{place}.micro_batch": size} for size in halves(recipe.micro_batch)]
    if recipe.packing is not None:  # then rows are as long as it says
        edits = [{f"{place}.packing": size} for size in halves(recipe.packing) if size >= recipe.max_tokens]
    if not recipe.gradient_checkpointing:
        edits.append({f"{place}.gradient_checkpointing": True})
    parted = [{f"{place}.processes": count, f"{place}.sharded": True} for count in more_cards(recipe.processes, cards)]
    edits += [edit for edit in parted if recipe.batch_size % edit[f"{place}.processes"] == 0]
    if recipe.method == "full":
        edits.append({f"{place}.method": "lora"})
        edits.append({f"{place}.method": "lora", f"{place}.quantisation": "nf4"})
    elif recipe.quantisation == "none":
        edits.append({f"{place}.quantisation": "nf4"})
    return edits
