"""Weights of encoders that open_clip, timm and torchvision name: where they are, and their download."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import open_clip
import timm
import torch
import torchvision
from open_clip.factory import get_model_config
from timm.models import get_pretrained_cfg

from logitfusion.clip.encoders.errors import EncoderError, wrong_key
from logitfusion.errors import UserError, first_line
from logitfusion.fetch.hub import Download, download
from logitfusion.fetch.hub_files import BESIDE, CONFIG, matches
from logitfusion.fetch.revisions import download_recorded
from logitfusion.files import sha256

# A library asks for the second and takes the first instead, where it is there.
_SAFE = {"open_clip_pytorch_model.bin": "open_clip_model.safetensors", "pytorch_model.bin": "model.safetensors"}


@dataclass(frozen=True)
class HubWeights:
    """A file of weights on the hub.

    Attributes:
        id: the repository.
        names: the file's possible names, the best first.
    """

    id: str
    names: tuple[str, ...]

    def choose(self, names: Sequence[str], _: Callable[[str], Path]) -> list[str]:
        """The file, of all that the repository has.

        Raises:
            UserError: it has none of them.
        """
        found = [name for name in self.names if name in names]
        if not found:
            raise UserError(f"has no file {' or '.join(self.names)}; choose another revision")
        return found[:1]


def clip_weights(model: str, tag: str) -> HubWeights:
    """Where the weights of one of open_clip's models are.

    Raises:
        UserError: no such model or tag.
    """
    if get_model_config(model) is None:
        raise wrong_key(f"open_clip has no model {model!r}", "model")
    trained = open_clip.get_pretrained_cfg(model, tag)
    if not trained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise wrong_key(f"open_clip has no weights {tag!r} for {model} (it has {tags})", "pretrained")
    id, _, name = trained["hf_hub"].rpartition("/")
    return HubWeights(id, _named(name or "open_clip_pytorch_model.bin"))


def timm_weights(model: str) -> HubWeights:
    """Where the weights of one of timm's models are.

    Raises:
        UserError: no such model, or one without weights on the hub.
    """
    if not timm.is_model(model):
        raise wrong_key(f"timm has no model {model!r}", "model")
    trained = get_pretrained_cfg(model)
    if trained is None or not trained.hf_hub_id:
        raise EncoderError(
            f"timm has no weights of {model!r} on the hub",
            config="name another, or use source: checkpoint",
            option="name another, or give {option} checkpoint:MODEL:FILE",
        )
    return HubWeights(trained.hf_hub_id, _named(trained.hf_hub_filename or "pytorch_model.bin"))


def _named(name: str) -> tuple[str, ...]:
    safe = _SAFE.get(name, re.sub(r"\.(bin|pth)$", ".safetensors", name))
    return tuple(dict.fromkeys([safe, name]))


def clip_tokenizers(model: str) -> list[str]:
    """The repositories that a text tower takes its tokenizer and config from; open_clip has its own for most."""
    text = get_model_config(model)["text_cfg"]
    named = [text.get("hf_tokenizer_name"), text.get("hf_model_name")]
    return list(dict.fromkeys(name for name in named if name))


def choose_tokenizer(names: Sequence[str], _: Callable[[str], Path]) -> list[str]:
    """The files of a tokenizer and the config beside it."""
    return [name for name in names if name == CONFIG or matches(name, BESIDE)]


def fetch_weights(weights: HubWeights, revision: str) -> Download:
    """The file of weights, downloaded unless the cache has it.

    Raises:
        UserError: see ``download``.
    """
    return download("model", weights.id, revision, choose=weights.choose)


def fetch_encoder(entry: dict[str, Any], revisions: Path) -> list[dict[str, Any]]:
    """Download all that an encoder needs of the network.

    Args:
        entry: of ``load_clip`` or ``load_auxiliary``, of one of the sources open_clip, timm and torchvision.
        revisions: the folder of recorded commits.

    Returns:
        what was downloaded, the weights first.

    Raises:
        UserError: no such model or weights, or no network.
    """
    if entry["source"] == "torchvision":
        return [_fetch_torchvision(entry["model"], entry["weights"])]
    clip = entry["source"] == "open_clip"
    weights = clip_weights(entry["model"], entry["pretrained"]) if clip else timm_weights(entry["model"])
    found = [download_recorded("model", weights.id, entry["revision"], revisions, choose=weights.choose)]
    for id in clip_tokenizers(entry["model"]) if clip else ():
        found.append(download_recorded("model", id, "main", revisions, choose=choose_tokenizer))
    return [part.describe() for part in found]


def torchvision_weights(model: str, weights: str) -> Any:
    """torchvision's own description of weights.

    Raises:
        UserError: no such model or weights.
    """
    try:
        return torchvision.models.get_model_weights(model)[weights]
    except (KeyError, ValueError):
        raise wrong_weights(model, weights) from None


def wrong_weights(model: str, weights: str | None) -> EncoderError:
    """torchvision knows no such model, or no such weights of it."""
    fault = f"torchvision has no {model!r} with weights {weights!r}"
    return EncoderError(fault, config="correct the entry's keys", option="correct {option}")


def check_torchvision(url: str) -> None:
    """Refuse a file in torch's cache that is not what its name says; torch looks at that while it downloads only.

    Raises:
        UserError: its bytes are others.
    """
    path = _torchvision_file(url)
    stated = _stated_digest(path)
    if stated is not None and path.is_file() and not sha256(path).startswith(stated):
        raise UserError(
            f"The weights {path} are damaged (their SHA-256 does not begin with {stated}); delete the file."
        )


def _torchvision_file(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name


def _stated_digest(path: Path) -> str | None:
    """The beginning of the file's SHA-256, which is part of its name."""
    found = re.search(r"-([a-f0-9]{8,})\.", path.name)
    return found[1] if found else None


def _fetch_torchvision(model: str, weights: str) -> dict[str, Any]:
    """The file of weights in torch's own cache, where torchvision looks for it."""
    url = torchvision_weights(model, weights).url
    path = _torchvision_file(url)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), _stated_digest(path), progress=False)
        except Exception as error:  # of urllib, and of torch for other bytes
            raise UserError(
                f"The weights {weights} of torchvision's {model} could not be downloaded to {path.parent}"
                f" ({first_line(error)}); check the network, or download {url} there."
            ) from error
    check_torchvision(url)
    file = {"name": path.name, "size": path.stat().st_size, "sha256": sha256(path)}
    return {"kind": "file", "id": url, "revision": weights, "commit": None, "licence": None, "files": [file]}
