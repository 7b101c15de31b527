from __future__ import annotations

from llm4sbr.engines import Local
from llm4sbr.testing.engines import EngineContract


class TestLocal(EngineContract):
    create = Local
