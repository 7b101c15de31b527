"""What is measured about memory, and that freed blocks are used again."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm4sbr.system import memory

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read from /proc")


def _alone(script: str) -> None:
    """Run it in a process of its own: here, freed memory of earlier tests is lying about."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@linux
def test_a_new_span_forgets_the_peak():
    _alone(
        "import torch\n"
        "from llm4sbr.system import memory\n"
        "block = torch.ones(16 * 2**20)\n"  # 64 MB
        "memory.reset_peak()\n"
        "with_block = memory.peak()\n"
        "del block\n"
        "memory.reset_peak()\n"
        "assert memory.peak() < with_block - 2**25"
    )


@pytest.mark.slow
@linux
def test_anonymous_memory_is_what_tensors_take():
    _alone(
        "import torch\n"
        "from llm4sbr.system import memory\n"
        "before = memory.anonymous()\n"
        "block = torch.ones(16 * 2**20)\n"
        "assert memory.anonymous() - before > 2**25"
    )


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_used_again():
    """The fewest page faults of a round of equal allocations; it takes some until all find a free place.

    By itself glibc keeps what it likes, up to blocks of 32 MB; those of 40 MB it always returns. Huge pages
    would turn ten thousand faults into twenty, and the environment could set other limits.
    """
    script = (
        "import ctypes, resource, sys, torch\n"
        "from llm4sbr.system import memory\n"
        "PR_SET_THP_DISABLE = 41\n"
        "ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)\n"
        "if sys.argv[1] == 'reuse': memory.reuse_freed()\n"
        "faults = []\n"
        "for _ in range(20):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(10 * 2**20), torch.ones(10 * 2**20)\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "print(min(faults))\n"
    )
    tuned = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", script, how], text=True, env=clean))
        for how in ("reuse", "return")
    }
    pages = 2 * 10 * 2**22 // os.sysconf("SC_PAGE_SIZE")
    assert faults["return"] >= pages, "the measurement sees no faults"
    assert faults["reuse"] < 100


@pytest.mark.parametrize("largest", [2**25, 2**40])
def test_an_older_c_library_gets_the_limit_that_it_takes(monkeypatch, largest):
    limits = {}

    class Library:
        @staticmethod
        def mallopt(parameter, value):
            taken = parameter != memory._MMAP_THRESHOLD or value <= largest
            limits.update({parameter: value} if taken else {})
            return int(taken)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    memory.reuse_freed()
    assert limits == {memory._MMAP_THRESHOLD: min(largest, 2**30), memory._TRIM_THRESHOLD: 2**30}


@pytest.mark.slow
@linux
def test_large_blocks_move_to_huge_pages_with_what_they_hold():
    script = (
        "import torch\n"
        "from llm4sbr.system import memory\n"
        "def huge():\n"
        "    lines = open('/proc/self/smaps').read().splitlines()\n"
        "    return sum(int(line.split()[1]) for line in lines if line.startswith('AnonHugePages:'))\n"
        "block = torch.arange(2**23)  # 64 MB\n"
        "before = huge()\n"
        "memory.use_huge_pages()\n"
        "assert torch.equal(block, torch.arange(2**23))\n"
        "print(huge() - before)\n"
    )
    moved = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    if not moved:
        pytest.skip("this kernel has no huge pages to give")
    assert moved > 2**15  # kB: half of the block at least


def test_a_want_of_memory_says_what_to_do():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    said = memory.shortage(caught.value)
    assert re.match(r"not enough memory to allocate \d+ bytes; lower train\.batch_size", said)
    assert memory.shortage(MemoryError()).startswith("not enough memory; lower")
    assert memory.shortage(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    ).startswith("not enough memory to allocate 2.00 GiB;")
    assert memory.shortage(RuntimeError("shapes differ")) == ""
