"""What is measured about memory, and that freed blocks are used again."""

from __future__ import annotations

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


@linux
def test_anonymous_memory_is_what_tensors_take():
    _alone(
        "import torch\n"
        "from llm4sbr.system import memory\n"
        "before = memory.anonymous()\n"
        "block = torch.ones(16 * 2**20)\n"
        "assert memory.anonymous() - before > 2**25"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_used_again():
    script = (
        "import resource, sys, torch\n"
        "from llm4sbr.system import memory\n"
        "if sys.argv[1] == 'reuse': memory.reuse_freed()\n"
        "for size in (2**24, 2**22, 2**22, 2**22, 2**22):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(size), torch.ones(size // 2)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", script, how], text=True))
        for how in ("reuse", "return")
    }
    assert faults["reuse"] < 100
    if faults["return"] < 100:
        pytest.skip("the C library kept freed memory by itself this time")


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
