from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from llm4sbr_openai import OpenAILLM

sys.path.insert(0, str(Path(__file__).parent))
from bad_server import SECRET, Server


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    found = Server()
    thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def llm(server: Server) -> OpenAILLM:
    return OpenAILLM("m", url=server.url, concurrency=4, retries=2, timeout=2.0)
