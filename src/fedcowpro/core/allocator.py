"""How the process's memory allocator treats large blocks."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_NEVER = 2**31 - 1
SWITCH = "FEDCOWPRO_KEEP_MEMORY"


@cache
def keep_large_blocks() -> bool:
    """Let glibc keep large blocks that are freed, for the whole process, and say whether it does.

    By default each large tensor is a mapping of its own, whose pages the kernel has to clear again in every step of a
    training: a fifth of the CPU time of the forward and backward pass of four episodes. Nothing is changed where the
    C library is another one, or where the environment variable FEDCOWPRO_KEEP_MEMORY is 0: the price is that the
    process, of whatever program it is, does not give its largest need of memory back until it ends.
    """
    if os.environ.get(SWITCH) == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
