"""A model hub that takes the call and never answers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from calls import RESULTS, call, errors, write_config

pytestmark = pytest.mark.fault


def test_a_silent_hub_is_asked_once_and_named(run: Path, tmp_path: Path) -> None:
    """Its own client would ask for each of a model's files six times, ten seconds each."""

    def add(config: dict[str, Any]) -> None:
        config["models"]["far"] = {"source": "hub", "id": "owner/name", "revision": "main"}

    config, asked = write_config(run, "far.yaml", add, "faults.yaml"), 0
    with socket.create_server(("127.0.0.1", 0)) as hub:
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        changes = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0", "no_proxy": "*"}
        code, said = call(run, f"{RESULTS}/models/far", *config, **changes)
        hub.settimeout(0)
        try:
            while True:
                hub.accept()
                asked += 1
        except BlockingIOError:
            pass
    assert code == 1
    assert "Traceback" not in said
    assert asked == 1
    (sentence,) = errors(run / RESULTS / "logs/models/far.log")
    assert sentence.startswith("The model 'owner/name' (revision main) is not in the cache")
    assert f"the hub {address} does not answer" in sentence
    assert "download it where there is a network" in sentence
    assert not (run / RESULTS / "models/far").exists()
