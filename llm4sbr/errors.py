"""All exceptions that llm4sbr raises deliberately.

    Llm4sbrError                 one clear line; the command line exits with 2
    ├── InputError               what the user gave: a file, a row, an option
    │   └── DataError            invalid interactions, items or sessions
    ├── ConfigError              a setting that does not exist or has a wrong value
    ├── RegistryError            a component that is unknown, ambiguous or broken
    ├── StoreError               a run directory, cache or tensor file that cannot be read or written
    │   └── DamagedError         a file that is not what was written
    ├── ModelUnavailableError    weights or a package are not available (no network, gated, not installed)
    ├── UnansweredError          an LLM could not answer some prompts; carries the answers it has
    ├── ExportError              an exported model does not give the trained model's results
    ├── DeviceError              a device that is needed is missing; exit code 3
    ├── PeerError                another process of distributed training has ended
    └── TrainingError            training cannot continue (a loss that is not a number, no training data)

A message says what was requested, what is wrong and where, and the command or setting that fixes it.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DamagedError",
    "DataError",
    "DeviceError",
    "ExportError",
    "InputError",
    "Llm4sbrError",
    "ModelUnavailableError",
    "PeerError",
    "RegistryError",
    "StoreError",
    "TrainingError",
    "UnansweredError",
]


class Llm4sbrError(Exception):
    """Base of all errors with a message meant for the user: one line, exit code 2."""

    exit_code = 2


class InputError(Llm4sbrError):
    """Something the user handed in cannot be used as it is."""


class DataError(InputError):
    """A data file, row or field cannot be used; the message names file, row and field."""


class ConfigError(Llm4sbrError):
    """A setting is unknown or out of range."""


class RegistryError(Llm4sbrError):
    """A component name is unknown, ambiguous, not allowed, or its package is broken."""


class StoreError(Llm4sbrError):
    """A file of a run, a cache or a tensor file is missing, truncated, foreign or not writable."""


class DamagedError(StoreError):
    """A file is not what was written: its hash is another one."""


class ModelUnavailableError(Llm4sbrError):
    """A model's weights, or a package, cannot be had on this machine."""


class UnansweredError(Llm4sbrError):
    """Some prompts of a batch got no answer (a server's error, a time-out), others did.

    An LLM's `generate` raises it instead of losing what it has; what is missing is asked again at the end.

    Args:
        reason: why, one line; of the last failure if there were several.
        answers: one per prompt of the batch, None where there is none.
    """

    def __init__(self, reason: str, answers: list[str | None]) -> None:
        super().__init__(reason)
        self.answers = answers


class ExportError(Llm4sbrError):
    """An exported model cannot be made, or does not answer as the trained one within the tolerance."""


class DeviceError(Llm4sbrError):
    """A device is not here; what could be written without it has been."""

    exit_code = 3


class PeerError(Llm4sbrError):
    """Another of the processes that train together has ended.

    Args:
        reported: it has said why, so that there is nothing to add.
    """

    def __init__(self, *, reported: bool) -> None:
        super().__init__(
            "another process of this training has ended; run the same command to go on from the last epoch"
        )
        self.reported = reported


class TrainingError(Llm4sbrError):
    """Training cannot start or go on."""
