"""The model hub is asked once for a sign of life."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from logitfusion.fetch.hub import ask_hub


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's settings are; and put back what the tests change."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that answers, with an error; the methods it was asked with."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.command)
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()
        thread.join()


def test_a_hub_that_answers_is_left_to_its_client(hub: list[str]) -> None:
    """Whatever it answers: its client knows what that means."""
    ask_hub()
    assert hub == ["HEAD"]
    assert not constants.is_offline_mode()


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refusing"])
def test_without_an_answer_only_the_cache_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listening: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        if not listening:
            server.close()
            address = "http://127.0.0.1:9"
        else:
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        ask_hub(seconds=0.1)
        ask_hub(seconds=0.1)
    assert constants.is_offline_mode()
    assert [f"The hub {address} does not answer" in message for message in caplog.messages] == [True]


def test_a_hub_that_may_not_be_asked_is_not(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ask_hub()
    assert hub == []
