"""Logs as JSON, one object per line, on standard error."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson

from llm4sbr.printable import escaped

log = logging.getLogger("llm4sbr.serving")


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, event and whatever fields come with it; a traceback is one field."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return escaped(orjson.dumps(line, default=str).decode())


def say(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log one event with its fields."""
    log.log(level, event, extra={"fields": fields})


def to_standard_error() -> None:
    """Send our log and uvicorn's errors to standard error; its start and stop notes are left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("llm4sbr.serving", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
