"""How many layers and experts a config.json asks for: nobody waits for more than any model has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from logitfusion.errors import UserError

MOST = 1000  # the deepest models have some 130 layers, the widest mixtures some 500 experts
_COUNTED = re.compile(r"(layers?|experts)\Z")  # num_hidden_layers, n_layer, num_local_experts, ...


def refuse_endless(facts: Mapping[str, Any], title: str) -> None:
    """Refuse a config whose model would be built layer by layer until the memory ends.

    Args:
        facts: what ``config.json`` holds.
        title: the model, as the beginning of a sentence.

    Raises:
        UserError: names the key.
    """
    for key, value in facts.items():
        if isinstance(value, Mapping):  # of a model with several parts
            refuse_endless(value, title)
        elif _COUNTED.search(key) and isinstance(value, (int, float)) and value > MOST:
            raise UserError(
                f"{title} has a config.json that can't be used: its {key} is more than {MOST}, which no model has;"
                " correct it, or fetch the model again."
            )
