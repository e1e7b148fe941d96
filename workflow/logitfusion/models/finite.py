"""Whether weights are numbers: NaN and infinity are refused when they are read, by file and tensor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from logitfusion.errors import UserError
from logitfusion.models.checkpoint import how_to_mend
from logitfusion.tensors import is_finite


def find_not_finite(module: nn.Module) -> list[str]:
    """The names of a module's parameters and stored buffers that hold NaN or infinity.

    An output layer's bias may hold -inf: it excludes a token.
    """
    outputs = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    bias = getattr(outputs, "bias", None)
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    distinct = {(value.device, value.data_ptr(), value.shape): name for name, value in tensors.items()}  # tied: once
    excluding = None if bias is None else (bias.device, bias.data_ptr(), bias.shape)
    return [name for place, name in distinct.items() if not is_finite(tensors[name], excluding=place == excluding)]


def refuse_not_finite(model: nn.Module, folder: str | Path) -> None:
    """Refuse a model that was read from a folder and has weights that are no numbers.

    Raises:
        UserError: names the file and the tensor in it, or the precision in which sound weights overflow.
    """
    if found := find_not_finite(model):
        refuse_damaged(sorted(Path(folder).glob("*.safetensors")))
        name = str(model.dtype).removeprefix("torch.")
        raise UserError(
            f"The weights of the model in {folder} are not finite in {name} ({_such_as(found)}), where they overflow;"
            " read it as bfloat16 or float32."
        )


def refuse_damaged(files: Iterable[Path]) -> None:
    """Refuse safetensors with a tensor of NaN or infinity; a bias of -inf may be one that excludes tokens.

    Raises:
        UserError: names the first such file and a tensor of it.
    """
    for path in files:
        with safe_open(path, framework="pt") as file:
            tensors = ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
            found = [name for name, tensor in tensors if not is_finite(tensor, excluding=name.endswith("bias"))]
        if found:
            raise UserError(
                f"The weights in {path} hold NaN or infinity ({_such_as(found)}), so they are damaged;"
                f" {how_to_mend(path.parent, 'a sound copy of that file')}."
            )


def _such_as(names: list[str]) -> str:
    return f"in {names[0]}" if len(names) == 1 else f"in {len(names)} tensors, such as {names[0]}"
