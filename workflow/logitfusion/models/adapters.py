"""Adapters: new ones to train, and trained ones as experts, several on one base where peft can mix them in a batch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.training import LoRA
from logitfusion.errors import UserError, find_memory_error, first_line
from logitfusion.files import read_json, write_json
from logitfusion.integrity import check_files, read_record
from logitfusion.models.adapter_kinds import WEIGHTS, is_plain, read_adapter, read_shapes
from logitfusion.models.architecture import count_vocabulary, has_key_value_cache, restart_length
from logitfusion.models.checkpoint import find_base, refuse_no_checkpoint
from logitfusion.models.device_maps import input_device
from logitfusion.models.finite import refuse_damaged
from logitfusion.models.forward import agree, plain_logits, refuse_not_causal
from logitfusion.models.identity import hash_recorded
from logitfusion.models.load import change_precision, copy_tokenizer, load_model
from logitfusion.models.precision import choose_dtype


def add_adapters(model: PreTrainedModel, lora: LoRA | None, seed: int) -> PreTrainedModel:
    """The model with fresh adapters, which alone are trained; the model itself where ``lora`` is None.

    Raises:
        UserError: an architecture that can't be trained so.
    """
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:  # peft knows layers whose adapters would do nothing (Mamba's)
        raise UserError(
            f"{type(model).__name__} can't be trained by LoRA ({first_line(error)}); train it with method: full."
        ) from error


def save_adapter(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: str | Path, target: str | Path
) -> None:
    """Write the adapter of a model that was trained, and not its base, which is named by a relative path.

    Args:
        model: a peft model.
        tokenizer: its base's.
        folder: where it is written to.
        base: the folder of the base.
        target: where the folder will be, if it is renamed afterwards.
    """
    model.save_pretrained(folder, save_embedding_layers=False)  # which are not trained
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = read_json(path)
    config |= {
        "base_model_name_or_path": os.path.relpath(base, target),
        "target_modules": sorted(config["target_modules"]),  # a set, in an order that changes from run to run
    }
    write_json(path, config)
    tokenizer.save_pretrained(folder)
    copy_tokenizer(base, folder)
    shutil.copyfile(Path(base) / "config.json", folder / "config.json")  # which some tokenizers are chosen by


def load_expert(folder: str | Path, *, merge: bool = False, **options: Any) -> PreTrainedModel:
    """A model of its own from the folder of a whole model, or of an adapter that a stage wrote beside its base.

    Args:
        folder: of the model or the adapter.
        merge: an adapter is merged in any precision, as whoever trains the model further needs it.
        options: those of ``load_model``.

    Raises:
        UserError: there is no such model, or the adapter's base is not where the adapter says.
    """
    base = find_base(folder)
    if base is None:
        return load_model(folder, **options)
    refuse_no_expert(folder)
    return load_adapted(base, folder, merge=merge, **options)


def refuse_one_folder(experts: Sequence[str | Path]) -> None:
    """Refuse a path in place of a list of them, whose letters would be folders.

    Raises:
        UserError: gives the list.
    """
    if isinstance(experts, str | Path):
        raise UserError(f"The experts are a list of folders; give [{str(experts)!r}].")


def refuse_no_expert(folder: str | Path) -> None:
    """Refuse what is neither the folder of a whole model nor an adapter beside its base, before anything is read.

    Raises:
        UserError: says what the folder holds instead, or that the base is not there or is another one by now.
    """
    base = find_base(folder)
    if base is not None and not base.is_dir():
        raise UserError(
            f"The adapter in {folder} was trained from the model in {base}, which is not there: bring it back, or"
            " delete the adapter's folder and run again."
        )
    if base is None:
        refuse_no_checkpoint(Path(folder))
        return
    refuse_no_expert(base)
    trained_from = (read_record(folder) or {}).get("base_weights")
    if trained_from not in (None, hash_recorded(base)):
        raise UserError(
            f"The adapter in {folder} was trained from another model than {base} holds now (other weights): put that"
            " model back, or delete the adapter's folder and run again."
        )


def load_sharing(
    base: str | Path, folders: Sequence[str | Path], **options: Any
) -> tuple[PreTrainedModel, list[str]] | None:
    """The base with the adapters of all folders, none merged (a peft model), and the adapters' names in it.

    Args:
        base: the folder of the base.
        folders: those of the adapters.
        options: those of ``load_model``.

    Returns:
        None where the adapters can't be mixed in a batch: one is not plain LoRA, the model has no cache of keys and
        values or forgets it at some length, or it does not pass whole rows through the layers that are adapted
        (experts of a mixture see tokens of all rows).

    Raises:
        UserError: an adapter that can't be read, is of a kind that is not computed, or does not fit the base.
    """
    for folder in folders:
        check_files(folder)
    plain = [is_plain(folder) for folder in folders]  # all of them: it refuses what can't be computed
    if not all(plain):
        return None
    shared, model = load_model(base, **options), None
    if not has_key_value_cache(shared) or restart_length(shared) is not None:
        return None
    names = [f"expert_{place}" for place in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        model = put_on(shared if model is None else model, folder, name)
    return (model, names) if _mixes_rows(model, names) else None


@torch.no_grad()
def load_adapted(base: str | Path, folder: str | Path, *, merge: bool = False, **options: Any) -> PreTrainedModel:
    """A model of its own: a fresh base with one adapter, merged into it where nothing else changes by that.

    They are merged in fp32 where the base is kept in it, and then read in the precision that is asked for. Sums of
    weights that are kept in half precision would be rounded twice, so there the adapter stays beside them.

    Args:
        base: the folder of the base.
        folder: that of the adapter.
        merge: merge in any precision.
        options: those of ``load_model``.

    Raises:
        UserError: an adapter that can't be read, is of a kind that is not computed, or does not fit the base.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    check_files(folder)
    config, plain = read_adapter(folder), is_plain(folder)
    asked, simple = choose_dtype(base, options.get("dtype", torch.float32)), plain and not config.lora_bias
    if simple and asked != torch.float32 and choose_dtype(base) == torch.float32:
        whole = load_adapted(base, folder, dtype=torch.float32, device=torch.device("cpu"))
        if not any(isinstance(module, BaseTunerLayer) for module in whole.modules()):
            return change_precision(whole, asked, **{name: options[name] for name in options if name != "dtype"})
    model = load_expert(base, merge=True, **options)
    _resize_vocabulary(model, folder)
    adapted = put_on(model, folder, "expert_0")
    refuse_not_causal(model, f"The model with the adapter in {folder}", anew=True)
    mergeable, exact = simple and not _adapts_tied(adapted), model.dtype == torch.float32
    if mergeable and exact and _merge_alike(adapted):
        return adapted.unload().requires_grad_().eval()  # peft has frozen the base
    if mergeable and merge and not exact:
        return adapted.merge_and_unload().requires_grad_().eval()
    return model  # its layers are replaced in place, so that it is the adapted model itself


def put_on(model: PreTrainedModel, folder: str | Path, name: str) -> PreTrainedModel:
    """The peft model with one adapter more, every tensor of which has found its place."""
    from peft import PeftModel

    try:
        if not isinstance(model, PeftModel):
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        result = model.load_adapter(str(folder), adapter_name=name)
    except Exception as error:  # peft, safetensors and torch each have their own types
        if find_memory_error(error) is not None:
            raise
        raise _misfit(folder, model, _reason(error)) from error
    # VB-LoRA lists its one bank of vectors under each layer too. Of embeddings that are trained, peft may save a second
    # copy; it raises an error where the first is missing.
    missing = sorted(key for key in result.missing_keys if "vblora_vector_bank" not in key)
    copies = (".modules_to_save.weight", ".token_adapter.trainable_tokens_delta")
    unexpected = sorted(key for key in result.unexpected_keys if not key.endswith(copies))
    found = []
    if unexpected:
        found.append(f"{len(unexpected)} of its tensors meet nothing there, such as {unexpected[0]}")
    if missing:
        found.append(f"{len(missing)} tensors are missing, such as {missing[0].replace(f'.{name}', '')}")
    if found:
        raise _misfit(folder, model, " and ".join(found))
    refuse_damaged([Path(folder) / WEIGHTS])
    return model.eval()


def _misfit(folder: str | Path, model: PreTrainedModel, reason: str) -> UserError:
    return UserError(
        f"The adapter in {folder} can't be put on the small base {model.name_or_path} ({reason}); was it trained from"
        " this base?"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it lacks the tensor {error.args[0]}"
    mismatch = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), None)
    if mismatch is None:
        return first_line(error)
    if "torch.Size([0])" in mismatch:
        return f"{mismatch.partition(':')[0]}: it is empty, as DeepSpeed and FSDP save what they did not gather"
    return mismatch.rstrip(".")


def _mixes_rows(model: PreTrainedModel, names: Sequence[str]) -> bool:
    rows = ["__base__", *names]
    ids = torch.tensor([[3, 4]], device=input_device(model)).expand(len(rows), -1)
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, adapter_names=rows)
    except Exception as error:  # peft's, for a layer whose input is not as long as the batch or is not of numbers
        if find_memory_error(error) is not None:
            raise
        return False
    return True


def _merge_alike(model: PreTrainedModel) -> bool:
    """Merge the adapter into its base, and undo it where that computes something else.

    Some architectures (Jamba) read the weights of an adapted layer past its adapter, which is without effect then.
    """
    ids = torch.arange(3, 19, device=input_device(model))[None] % count_vocabulary(model)
    expected = plain_logits(model, ids)
    model.merge_adapter()
    if agree(plain_logits(model, ids), expected):
        return True
    model.unmerge_adapter()
    return False


def _adapts_tied(model: PreTrainedModel) -> bool:
    """Whether an adapter is on the embedding or the output layer while these share their weights."""
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    tied = base.config.get_text_config(decoder=True).tie_word_embeddings
    return tied and any(hasattr(layer, "base_layer") for layer in ends)


def _resize_vocabulary(base: PreTrainedModel, folder: str | Path) -> None:
    """Give the base as many tokens as the adapter was trained with, which may have added some.

    Whatever the new rows hold that are not in the adapter: a fusion predicts and reads only what its base has as well.
    """
    shapes = read_shapes(folder)
    rows: set[int] = set()
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        name = next((name for name, module in base.named_modules() if module is layer), None)
        parts = {key.partition(f"base_model.model.{name}.")[2]: shape for key, shape in shapes.items()}
        rows |= {shape[0] for part, shape in parts.items() if part in ("weight", "lora_B.weight")}
        rows |= {shape[0] for part, shape in parts.items() if part.endswith("base_layer.weight")}
        rows |= {shape[-1] for part, shape in parts.items() if part == "lora_embedding_A"}
    if rows - {base.get_input_embeddings().weight.shape[0]}:
        base.resize_token_embeddings(max(rows), mean_resizing=False)
