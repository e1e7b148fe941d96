"""Whether the model hub answers: asked once and quickly, because its client would wait and retry for minutes."""

from __future__ import annotations

import logging

from huggingface_hub import constants
from huggingface_hub.utils import get_session

logger = logging.getLogger(__name__)


def ask_hub(seconds: float = 10) -> None:
    """Ask the hub for any answer; without one, its client uses what it has downloaded earlier and nothing else.

    So a model that is in the cache still opens, at once, and one that is not fails at once.
    """
    if constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # whatever the client's transport raises
        logger.warning(
            "The hub %s does not answer (%s); only what was downloaded earlier is used.", constants.ENDPOINT, error
        )
        constants.HF_HUB_OFFLINE = True
