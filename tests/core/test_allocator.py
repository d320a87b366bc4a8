"""Large blocks that are freed stay in the process, and what is computed stays the same."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from fedcowpro.core.allocator import keep_large_blocks
if sys.argv[1] != "default":
    assert keep_large_blocks() == (sys.argv[1] == "keep")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"1") * (1 << 25)  # 32 MiB, written and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print([faults() for _ in range(4)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_kept_blocks_are_not_cleared_again() -> None:
    """Minor page faults of writing 32 MiB (8,192 pages) four times."""

    def counted(mode: str) -> list[int]:
        command = [sys.executable, "-c", FAULTS, mode]
        env = os.environ | ({"FEDCOWPRO_KEEP_MEMORY": "0"} if mode == "switched off" else {})
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)

    counts = {mode: counted(mode) for mode in ("default", "keep", "switched off")}
    assert counts["keep"][0] > 4000
    assert max(counts["keep"][1:]) < 100
    assert counts["default"][0] > 4000
    assert min(counts["switched off"]) > 4000


def test_elsewhere_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedcowpro.core.allocator import keep_large_blocks

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_large_blocks.__wrapped__() is False
