"""For all tests, those of plugins too: what is kept from run to run is kept for this test run alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from llm4sbr import store

_cache = tempfile.TemporaryDirectory(prefix="llm4sbr-tests-")  # removed at the end of the process
_models = store.cache_dir() / "models"
if _models.exists():  # decoded from larger files, which takes long
    (Path(_cache.name) / "models").symlink_to(_models.resolve())
os.environ["LLM4SBR_CACHE"] = _cache.name
