"""Becomes a server process that cannot outlive the process that started it.

Run by path, with the standard library alone: launch.py DEATH_SIGNAL PARENT_PID USER ARGV...
Preparing here, between fork and exec, and not in a `preexec_fn`, is safe in a program with threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import sys

# Numbers from Linux's own headers: linux/prctl.h and linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def prctl(*arguments: int) -> None:
    """Set something of this process; raises OSError where the kernel refuses."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]]
    if libc.prctl(*padded) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl{arguments}: {os.strerror(code)}")


def keep_only(capability: int) -> None:
    """Drop every capability but `capability`, which survives exec."""
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def become(user: str) -> None:
    """Turn from root into `user`, who may still reach files below folders of mode 0700."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    prctl(PR_SET_KEEPCAPS, 1)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    # Where a container forbids capabilities, open paths still work without them.
    with contextlib.suppress(OSError):
        keep_only(CAP_DAC_OVERRIDE)


def main(death_signal: int, parent: int, user: str, *argv: str) -> None:
    """Prepare this process, then replace it with `argv`."""
    if user:
        become(user)
    # After `become`: the kernel forgets the death signal when a process changes its user.
    prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # it died before we could ask to be told
        raise SystemExit(1)
    os.execv(argv[0], argv)  # noqa: S606 - a program and its arguments, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
