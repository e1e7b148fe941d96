"""Pictures of Debian packages that keep them in a folder for each kind of thing, as collections of clip art do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data, split_rows
from logitfusion.clip.data.found import find_images
from logitfusion.errors import UserError
from logitfusion.fetch.archives import unpack_deb
from logitfusion.files import whole


def read_packaged(entry: dict[str, Any], package: str | Path, folder: str | Path) -> DataSet:
    """Images of one folder a class, nested folders included; they are unpacked to ``folder``.

    Keys: ``below``, the folder inside the package that holds those of the classes; ``classes``, from the names in
    prompts, in the order of the labels, to folders; ``test_share`` and ``seed``; optional ``prompts`` and ``sha256``.

    Raises:
        UserError: a class without an image in the package.
    """
    name, below = f"The package {package}", PurePosixPath(entry["below"])
    places = {one: str(below / place) for one, place in entry["classes"].items()}
    with whole(folder) as temporary:
        temporary.mkdir()
        unpack_deb(package, _is_below(tuple(f"{place}/" for place in places.values())), temporary, entry.get("sha256"))
    rows = [row for label, place in enumerate(places.values()) for row in _list_rows(Path(folder), place, label)]
    found = {row.label for row in rows}
    if empty := [one for label, one in enumerate(places) if label not in found]:
        raise UserError(f"{name} has no images of the class {empty[0]!r} in {places[empty[0]]}; correct its folder.")
    train, test, split = split_rows(name, rows, entry["test_share"], entry["seed"])
    return make_data(name, list(places), entry.get("prompts") or [PROMPT], train, test, split)


def _is_below(starts: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda member: member.startswith(starts)


def _list_rows(folder: Path, place: str, label: int) -> list[ImageRow]:
    if not (folder / place).is_dir():
        return []
    images = find_images(folder / place).images
    return [ImageRow(path.relative_to(folder).as_posix(), str(path), label) for path in images]
