"""Finds the device that a setting names."""

from __future__ import annotations

from llm4sbr.errors import ConfigError


def device(name: str, setting: str) -> str:
    """The device of this name; `auto` is a GPU if there is one.

    Args:
        name: as the user gave it.
        setting: name of the setting, for the error message.

    Raises:
        ConfigError: this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch build without CUDA
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"{setting} = {name!r}: no such device here ({reason}); take cpu or auto") from None
    return name
