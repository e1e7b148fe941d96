"""Models of the hub: downloaded, and referred to where the hub's cache has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from logitfusion.config.models import HubModel
from logitfusion.errors import UserError
from logitfusion.fetch.hub import Download
from logitfusion.fetch.hub_files import CONFIG, choose_model_files
from logitfusion.fetch.revisions import download_recorded
from logitfusion.files import read_json
from logitfusion.models.reference import is_quantised, refer


def refer_to_hub(entry: HubModel, folder: Path, revisions: Path, title: str) -> Download:
    """Download a model and make the folder of links to its files, and of a record of them.

    Args:
        folder: where the links are put.
        revisions: the folder of recorded commits.
        title: the model's name, for messages.

    Raises:
        UserError: no such model, no network, an adapter, weights that don't fit, or a model that needs code of its own.
    """
    found = download_recorded("model", entry.id, entry.revision, revisions, choose=choose_files)
    if is_quantised(found.folder):
        raise UserError(
            f"The weights of the model {entry.id!r} are quantised; use a causal language model that transformers has,"
            " in full precision."
        )
    refer(
        found.folder,
        folder,
        entry.dump(),
        title=title,
        names=[file.name for file in found.files],
        digests={file.name: file.sha256 for file in found.files},
        commit=found.commit,
        licence=found.licence,
    )
    return found


def choose_files(names: Sequence[str], open_file: Callable[[str], Path]) -> list[str]:
    """The files of a model whose architecture transformers has: a repository may bring code, which is never run.

    Raises:
        UserError: transformers lacks the architecture, or see ``choose_model_files``.
    """
    config = read_json(open_file(CONFIG)) if CONFIG in names else {}
    # Some bring code beside an architecture that transformers has by now (Phi-4 does).
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise UserError(
            "needs Python code that comes with it, which is never run; use a model of an architecture that"
            " transformers has"
        )
    return choose_model_files(names, open_file)
