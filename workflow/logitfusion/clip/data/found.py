"""What is in a user's folder: the images, and every other file with the reason why it is not used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from logitfusion.clip.data.formats import why_no_image

HIDDEN = "hidden, for its name or its folder's begins with a dot"
SYSTEM = "the system's or an archive's own, not the user's"
LINE_BREAK = "a line break in its name or its folder's; rename it"
LOOSE = "in no class folder"
# Thumbnails, waste bins, snapshots and finds of NAS, disks, macOS and Windows; compared in small letters.
SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "lost+found",
        "lost.dir",
        "system volume information",
    }
)
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store"})


@dataclass(frozen=True)
class Found:
    """All files of a folder: each is in one of the two.

    Attributes:
        images: the image files, sorted.
        left_out: file, or link to a folder, or folder that can't be opened -> why it is not used.
    """

    images: list[Path]
    left_out: dict[str, str]


def find_images(folder: Path) -> Found:
    """The images in a folder and in its folders, in the order of their paths.

    A link to a folder inside is followed unless that folder is found without it; one that leaves ``folder`` or leads
    back to where it came from is left out. A link to a single file is used as that file, but not beside it.

    Raises:
        NotADirectoryError: no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    walk = _Walk(folder)
    walk.enter(folder)
    while walk.links:  # after all plain folders, which keep their own names
        links, walk.links = sorted(walk.links), []
        for link in links:
            walk.follow(link)
    real = {os.path.realpath(image) for image in walk.images} if walk.file_links else set()
    for link in sorted(walk.file_links):
        walk.use_link(link, real)
    return Found(sorted(walk.images), dict(sorted(walk.left_out.items())))


def left_out_lines(left_out: Mapping[str, str], names: int = 3) -> list[str]:
    """A line for each reason, the commonest first: how many files it holds for, and the first ``names`` of them."""
    lines = []
    for reason, count in Counter(left_out.values()).most_common():
        first = [_show(path) for path, why in left_out.items() if why == reason][:names]
        more = f" and {count - len(first)} more" if count > len(first) else ""
        lines.append(f"{count} {'file' if count == 1 else 'files'} not used ({reason}): {', '.join(first)}{more}")
    return lines


def _show(path: str) -> str:
    return path if path.isprintable() else repr(path)  # a terminal obeys what can't be printed


def below(left_out: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The part of ``left_out`` that is in a folder."""
    return {path: why for path, why in left_out.items() if Path(path).is_relative_to(folder)}


@dataclass
class _Walk:
    """One pass through a folder; ``entered`` holds the real paths of folders that were."""

    root: Path
    images: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    links: list[Path] = field(default_factory=list)
    file_links: list[Path] = field(default_factory=list)
    entered: set[str] = field(default_factory=set)

    def enter(self, folder: Path, why: str | None = None) -> None:
        """Sort the files of a folder and of its folders; ``why`` leaves all of them out."""
        pending = [(folder, why)]
        while pending:
            place, reason = pending.pop()
            if reason is None:
                self.entered.add(os.path.realpath(place))
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError as error:
                self.left_out[str(place)] = f"a folder that can't be opened ({(error.strerror or str(error)).lower()})"
                continue
            for entry in entries:
                found = Path(place, entry.name)
                reason_of = reason or _why_by_name(entry)
                if entry.is_dir(follow_symlinks=False):
                    if reason_of is not None or os.path.realpath(found) not in self.entered:
                        pending.append((found, reason_of))
                elif reason_of is None and entry.is_symlink():
                    self._sort_link(found)
                else:
                    self._sort(found, reason_of or why_no_image(found))

    def _sort(self, file: Path, why: str | None) -> None:
        if why is None and not file.is_file():
            why = "no file, but a device, a pipe or the like"
        if why is None:
            self.images.append(file)
        else:
            self.left_out[str(file)] = why

    def _sort_link(self, link: Path) -> None:
        if link.is_dir():
            self.links.append(link)
        elif (why := why_no_image(link)) is not None:
            self.left_out[str(link)] = why
        else:
            self.file_links.append(link)

    def follow(self, link: Path) -> None:
        target, root = os.path.realpath(link), os.path.realpath(self.root)
        if os.path.commonpath([target, os.path.realpath(link.parent)]) == target:
            self.left_out[str(link)] = "a link to a folder that it is in, which would go round for ever"
        elif os.path.commonpath([target, root]) != root:
            self.left_out[str(link)] = f"a link out of {self.root}, not followed; copy that folder, or name it itself"
        elif target in self.entered:
            self.left_out[str(link)] = "a link to a folder that is used under another name"
        else:
            self.enter(link)

    def use_link(self, link: Path, real: set[str]) -> None:
        """A link to an image file, unless it is a second name of one whose real path is in ``real``."""
        target = os.path.realpath(link)
        if not link.is_file():
            self.left_out[str(link)] = "a link to what is no file" if link.exists() else "a link to what is not there"
        elif target in real:
            self.left_out[str(link)] = "a link to an image that is used under another name"
        else:
            real.add(target)
            self.images.append(link)


def _why_by_name(entry: os.DirEntry[str]) -> str | None:
    name = entry.name.lower()
    if name in SYSTEM_FOLDERS or name in SYSTEM_FILES or name.startswith("._"):
        return SYSTEM
    if name.startswith("."):
        return HIDDEN
    return LINE_BREAK if "\n" in name else None
