"""Model folders that refer to a model elsewhere: links to its files, and a record of what these were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import str_to_torch_dtype

from logitfusion.errors import UserError, find_memory_error
from logitfusion.fetch.hub_files import BESIDE, CONFIG, WHOLE
from logitfusion.formats.json import read_json
from logitfusion.integrity import RECORD, as_rows, check_files, read_record, record_files
from logitfusion.models.checkpoint import INDEX, explain_failure, read_index, refuse_misfit, refuse_no_checkpoint
from logitfusion.models.load import describe, load_tokenizer
from logitfusion.provenance import record


def refer(
    source: Path,
    folder: Path,
    config: dict[str, Any],
    *,
    title: str = "",
    names: Sequence[str] | None = None,
    digests: Mapping[str, str] | None = None,
    **facts: Any,
) -> None:
    """Make a folder of links to the files of a model that are needed, and of a record of them.

    The model is held against its architecture by the heads of its files; its weights are read once, to hash them.

    Args:
        source: a folder with a whole model in safetensors.
        folder: where the links and ``record.json`` are put.
        config: the model's entry in the config, for the record.
        title: the model's name, for messages; the folder's where empty.
        names: the files that are needed, if that is known.
        digests: the SHA-256 of files that were hashed a moment ago (file name -> hex).
        facts: what else the record keeps, such as the commit that a revision was.

    Raises:
        UserError: the source holds no model that could be loaded.
    """
    source, title = source.absolute(), title or folder.name
    names = choose_files(source) if names is None else names
    check_files(source)  # of another run's model, which may be damaged since
    load_tokenizer(source)
    described = describe_stored(source)
    for name in names:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source / name)
    files = record_files(folder, names, title, digests or {})
    record(folder / RECORD, config, source=str(source), files=as_rows(files), **described, **facts)


def choose_files(source: Path) -> list[str]:
    """The files of a model's folder that are needed: its weights in safetensors, configs and tokenizer.

    Raises:
        UserError: the folder holds no whole model in safetensors.
    """
    refuse_no_checkpoint(source)
    beside = [path for pattern in BESIDE for path in source.glob(pattern) if path.is_file()]
    return sorted({CONFIG, *_weights(source), *(str(path.relative_to(source)) for path in beside)})


def _weights(source: Path) -> list[str]:
    """The files that transformers reads the weights from."""
    if (source / WHOLE).is_file():
        return [WHOLE]
    if (source / INDEX).is_file():
        shards = sorted(set(read_index(source).values()))
        if any(Path(name).name != name for name in shards):
            raise UserError(f"The file {source / INDEX} names files in other folders; save the model again.")
        return [INDEX, *shards]
    found = min(path.name for path in source.glob("*.safetensors"))
    raise UserError(
        f"The model in {source} has its weights neither in {WHOLE} nor in files that {INDEX} lists (but {found}); save"
        " it with save_pretrained(folder)."
    )


def describe_recorded(folder: Path) -> dict[str, Any]:
    """What the record of a folder says about its model, as ``load.describe`` does of one in memory.

    Of a folder without such a record (a model as it was downloaded) its weights' heads tell.
    """
    known = read_record(folder) or {}
    names = ("parameters", "layers", "vocabulary")
    found = known if known.keys() >= set(names) else describe_stored(folder)
    return {name: found[name] for name in names}


def describe_stored(folder: Path) -> dict[str, Any]:
    """What is known of a stored model without reading its weights: sizes, and whether they fit its architecture.

    Raises:
        UserError: the weights don't fit, or the architecture is none that is read here.
    """
    tensors = read_heads(folder)
    try:
        model, report = _fill(folder, tensors)
    except Exception as error:  # transformers has types of its own for each of its parts
        if find_memory_error(error) is not None:
            raise
        raise UserError(explain_failure(folder, error)) from error
    refuse_misfit(f"The model in {folder}", type(model).__name__, report)
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    stored = max(sizes, key=sizes.__getitem__)
    return describe(model) | {"stored_bytes": sum(sizes.values()), "stored_dtype": str(stored).removeprefix("torch.")}


def read_heads(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a stored model, on ``meta``: its shape and its dtype.

    Raises:
        UserError: a file that is no safetensors.
    """
    tensors = {}
    for name in _weights(folder):
        if name == INDEX:
            continue
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    part = file.get_slice(key)
                    dtype = str_to_torch_dtype[part.get_dtype()]
                    tensors[key] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(explain_failure(folder, error)) from error
    return tensors


def _fill(folder: Path, tensors: dict[str, Tensor]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model on ``meta`` with the tensors put in as transformers would put them in, and its report on that."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return type(empty).from_pretrained(
        None,
        config=empty.config,
        state_dict=tensors,
        dtype="auto",
        device_map={"": "meta"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are in the report
    )


def is_quantised(folder: Path) -> bool:
    """Whether a model's weights are stored in fewer bits, with scales, as its config says."""
    try:
        return "quantization_config" in read_json(folder / "config.json")
    except (UserError, TypeError):
        return False  # which loading says
