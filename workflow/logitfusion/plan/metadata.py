"""What is known of a repository before it is downloaded: its config and the sizes of its files, never its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from logitfusion.errors import UserError
from logitfusion.fetch.hub import ask_about, ask_hub, insist
from logitfusion.fetch.hub_faults import explain
from logitfusion.fetch.hub_files import BESIDE, CONFIG, choose_model_files
from logitfusion.files import read_json

FILES = "files.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model that is stored somewhere.

    Attributes:
        config: what its ``config.json`` holds.
        files: name -> bytes of the files that are needed.
        folder: where its small files are; None where only their sizes are known.
        repository: its name on the hub; None for a folder.
    """

    config: dict[str, Any]
    files: dict[str, int]
    folder: Path | None = None
    repository: str | None = None

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


def ask_hub_for(id: str, revision: str) -> Checkpoint:
    """A model of the hub: its description and its small files are read, nothing else.

    Raises:
        UserError: whatever keeps the model from being used, as far as it shows without its weights.
    """
    title, page = f"The model {id!r} (revision {revision})", f"{constants.ENDPOINT}/{id}"
    silence = ask_hub()
    if silence is not None:
        known = try_to_load_from_cache(id, CONFIG, revision=revision)
        if isinstance(known, str):
            return _read_cached(Path(known).parent, id, title)
        raise UserError(
            f"{title} is not known here, because {silence}; plan where there is a network, or give --metadata FOLDER"
            f" with {id}/{CONFIG}."
        )
    try:
        info = ask_about("model", id, revision)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        get = partial(hf_hub_download, id, revision=info.sha)

        def open_file(name: str) -> Path:
            return Path(insist(lambda: get(filename=name), f"{id}, {name}"))

        names = choose_model_files(list(sizes), open_file)
        config = open_file(CONFIG)
    except Exception as error:  # the client and what it stands on raise dozens of types
        raise explain(error, title, page) from error
    return Checkpoint(read_json(config), {name: sizes[name] for name in names}, config.parent, id)


def _read_cached(folder: Path, id: str, title: str) -> Checkpoint:
    """A model whose config, at least, was downloaded earlier."""
    try:
        return replace(read_folder(folder, title), repository=id)
    except UserError:  # its weights are not there
        return Checkpoint(read_json(folder / CONFIG), {}, folder, id)


def read_stored(folder: Path, id: str) -> Checkpoint:
    """A model of the hub as a folder on this machine describes it: ``owner/name/config.json`` and ``files.json``.

    ``files.json`` maps the names of the repository's files to their bytes.

    Raises:
        UserError: the folder does not describe the model, or its files can't be used.
    """
    place = folder / id
    if not (place / CONFIG).is_file():
        raise UserError(f"{folder} does not describe {id!r}: there is no {place / CONFIG}; add it.")
    sizes = read_json(place / FILES) if (place / FILES).is_file() else {}
    if not isinstance(sizes, dict) or not all(isinstance(size, int) and size >= 0 for size in sizes.values()):
        raise UserError(f"{place / FILES} must map names of files to their sizes in bytes.")
    if sizes:
        listed = [*sizes, *({CONFIG} - sizes.keys())]
        try:
            names = choose_model_files(listed, lambda name: place / name)
        except UserError as error:
            raise UserError(f"The model {id!r} of {folder} {error}.") from None
        sizes = {name: sizes.get(name, 0) for name in names}
    return Checkpoint(read_json(place / CONFIG), sizes, place, id)


def read_folder(folder: Path, title: str) -> Checkpoint:
    """A model in a folder of this machine.

    Raises:
        UserError: there is no model of safetensors.
    """
    if not folder.is_dir():
        raise UserError(f"The model path {folder} is not a folder; correct the model's path key.")
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    try:
        names = choose_model_files(list(paths), lambda name: folder / name)
    except UserError as error:
        raise UserError(f"{title} in {folder} {error}.") from None
    return Checkpoint(read_json(folder / CONFIG), {name: paths[name].stat().st_size for name in names}, folder)


def fetch_tokenizer(checkpoint: Checkpoint) -> Path | None:
    """The folder that holds a model's tokenizer, downloaded if need be; None where only sizes are known."""
    names = [name for name in checkpoint.files if any(Path(name).match(pattern) for pattern in BESIDE)]
    folder = checkpoint.folder
    if folder is None or not any("token" in name or name.endswith(".model") for name in names):
        return None
    if checkpoint.repository is None or all((folder / name).exists() for name in names):
        return folder if all((folder / name).exists() for name in names) else None
    if "snapshots" not in folder.parts:  # a description of it
        return None
    for name in names:
        insist(
            partial(hf_hub_download, checkpoint.repository, revision=folder.name, filename=name), checkpoint.repository
        )
    return folder
