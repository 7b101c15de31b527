"""Exports on a model hub, by huggingface_hub's documented calls."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm4sbr import folders, secrets, store
from llm4sbr.errors import InputError, ModelUnavailableError, StoreError
from llm4sbr.packing.archive import GIB, safe
from llm4sbr.packing.contents import files_of, kind_of
from llm4sbr.report.card import NAME as CARD
from llm4sbr.serving.artefact import RECORD, check_files, read_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

README = "README.md"
"""What hubs call a model card."""

SMALL = 16 * 2**20
"""Bytes that an export's record may have."""


def push(
    folder: Path, name: str, *, private: bool = True, message: str = "Export", endpoint: str | None = None
) -> dict[str, Any]:
    """Upload an export; returns the model's URL and the names of the files.

    Args:
        folder: the export.
        name: `hub:USER/MODEL`.
        private: whether a repository that is new is.
        message: the commit's.
        endpoint: by default the Hugging Face hub, or what HF_ENDPOINT names.

    Raises:
        StoreError: the folder is no whole export.
        InputError: the name is none, or a file has a key or a path of this machine in it.
        ModelUnavailableError: the hub refuses, or cannot be reached.
    """
    repo = _repo(name)
    if kind_of(folder) != "export":
        raise StoreError(f"{folder}: a run; name one of its exports, such as {folder / 'export' / 'onnx'}")
    with TemporaryDirectory(prefix="llm4sbr-") as temporary, _asking(name) as api_of:
        files = []
        for file in files_of(folder):
            target = Path(temporary) / (README if file.name == CARD else file.name)
            if file.changed is None:
                folders.link_file(file.path, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.changed)
            files.append(target.relative_to(temporary).as_posix())
        api = api_of(endpoint)
        url = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=temporary, commit_message=message)
    return {"url": str(url), "commit": str(commit.oid), "files": sorted(files)}


def pull(
    name: str,
    folder: Path,
    *,
    revision: str | None = None,
    most: float = 64,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """Download an export into a new folder and check it; returns the commit and the names of the files.

    Args:
        name: `hub:USER/MODEL`.
        folder: must not be there yet.
        revision: a branch, tag or commit.
        most: GiB that it may have.
        endpoint: as for `push`.

    Raises:
        StoreError: it is no export, a file is not what its record says, or the folder is there already.
        InputError: the name is none, or the model is larger than allowed.
        ModelUnavailableError: the hub has no such model, or cannot be reached.
    """
    repo = _repo(name)
    if folder.exists():
        raise StoreError(f"{folder}: is there already; name another folder")
    temporary = folder.with_name(f".{folder.name}.pulling")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with store.explained(folder), _asking(name) as api_of:
            api = api_of(endpoint)
            told = api.model_info(repo, revision=revision, files_metadata=True)
            sizes = {one.rfilename: one.size or 0 for one in told.siblings or ()}
            if sizes.get(RECORD, SMALL + 1) > SMALL:
                raise StoreError(f"{name}: no export of llm4sbr ({RECORD} is missing)")
            download = {"repo_id": repo, "revision": told.sha, "local_dir": temporary}
            api.hf_hub_download(filename=RECORD, **download)
            listed = read_record(temporary)["files"]
            if not all(safe(one) and "/" not in one and one in sizes for one in listed):
                raise StoreError(f"{name}: its {RECORD} lists files that are not there")
            if sum(sizes[one] for one in listed) > most * GIB:
                raise InputError(f"{name}: has more than {most:g} GiB; --max-size allows more")
            card = [README] if sizes.get(README, SMALL + 1) <= SMALL else []
            for one in (*listed, *card):
                api.hf_hub_download(filename=one, **download)
        if card:
            (temporary / README).rename(temporary / CARD)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)  # what the downloads needed
        check_files(temporary, read_record(temporary))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"commit": str(told.sha), "files": sorted([RECORD, *listed, *([CARD] if card else [])])}


def _repo(name: str) -> str:
    kind, _, repo = name.partition(":")
    if kind != "hub" or not 1 <= len(repo.split("/")) <= 2 or not safe(repo):
        raise InputError(f"{name!r:.100}: expected hub:USER/MODEL")
    return repo


@contextmanager
def _asking(name: str) -> Iterator[Any]:
    """Gives what makes a client; whatever the hub or the way to it does is one line, without a key."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError:
        raise ModelUnavailableError(
            f"{name}: needs huggingface_hub; run pip install huggingface_hub"
        ) from None

    def client(endpoint: str | None) -> HfApi:
        return HfApi(endpoint=endpoint, library_name="llm4sbr")

    try:
        yield client
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno is not None:
            raise  # of this machine's files
        raise ModelUnavailableError(f"{name}: {_line(error)}") from None
    except Exception as error:  # the clients below have classes of their own
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "hf_xet")):
            raise
        raise ModelUnavailableError(f"{name}: the hub cannot be reached: {_line(error)}") from None


def _line(error: Exception) -> str:
    return secrets.mask(" ".join(str(error).split()))[:300]
