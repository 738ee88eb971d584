"""Faults at every system call by which an operation changes files.

`at_every_call` runs an operation in a child of its own, traced with ptrace, once for each of those
calls, and lets a fault happen there: the child is killed before the call or in the middle of a
write, or the call is refused as on a full or read-only disk. Afterwards the files must hold what
was there before or what is there after, entire, and the operation must then succeed.
"""

import ctypes
import os
import platform
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import Enum
from errno import ENOSPC, EROFS
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

needs_ptrace = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the registers and numbers of system calls are those of Linux on x86-64",
)

# Whatever changes a file or a folder; `openat` and `open` only where they create or truncate.
_CALLS = {
    1: "write",
    2: "open",
    18: "pwrite64",
    20: "writev",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    87: "unlink",
    257: "openat",
    258: "mkdirat",
    263: "unlinkat",
    264: "renameat",
    285: "fallocate",
    316: "renameat2",
}
_CHANGING = os.O_CREAT | os.O_TRUNC
_TRACEME, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 12, 13, 24, 0x4200
_EXITKILL, _SYSGOOD = 0x100000, 1
_FLAGS = {"open": "rsi", "openat": "rdx"}
_LIBC = ctypes.CDLL(None, use_errno=True)
_DONE, _TOLD, _BROKEN = 0, 3, 4
"""How a child ends: all is well; it said that it is not; another exception."""


class Fault(Enum):
    """What happens at a call."""

    KILL = "killed before it"
    TEAR = "killed when half of it was written"
    FULL = "refused: no space left on the device"
    READ_ONLY = "refused: the file system is read-only"


_TAKES_SPACE = {"write", "pwrite64", "writev", "open", "openat", "mkdir", "mkdirat", "fallocate"}
_SUFFERS = {
    Fault.TEAR: {"write", "pwrite64"},
    Fault.FULL: _TAKES_SPACE,
    Fault.READ_ONLY: set(_CALLS.values()) - {"write", "pwrite64", "writev", "fsync", "fdatasync"},
}
"""Calls that a fault can happen to, if not to all."""
_ERRNO = {Fault.FULL: ENOSPC, Fault.READ_ONLY: EROFS}


@dataclass(frozen=True)
class Operation:
    """Something that changes files in a folder; all three are functions of a module.

    Attributes:
        prepare: makes the folder's first state.
        run: the change; raises `OSError` or what is in `raises` where it fails.
        look: opens what is there as the next process will, and gives something comparable.
        raises: what `run` may raise beside `OSError`.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    look: Callable[[Path], Any]
    raises: tuple[type[Exception], ...] = ()


def at_every_call(operation: Operation, folder: Path) -> dict[Fault, list[str]]:
    """Check the operation under every fault at each of its calls; the names of the calls.

    Raises:
        AssertionError: something half-done was seen, nobody was told of a failure, the operation
            could not be repeated, or a file got its name before its bytes were on the disk.
    """
    # A fresh process: one without threads can be forked.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_every_fault, operation, folder).result(timeout=100)


def _with_every_fault(operation: Operation, folder: Path) -> dict[Fault, list[str]]:
    first, last = folder / "first", folder / "last"
    first.mkdir(parents=True)
    operation.prepare(first)
    shutil.copytree(first, last)
    operation.run(last)
    shutil.copytree(first, folder / "looked")  # looking may write
    before, after = operation.look(folder / "looked"), operation.look(last)
    assert before != after, "the operation changes nothing that can be seen"
    seen = {fault: _at_every_call(operation, fault, folder, before, after) for fault in Fault}
    _assert_synced(seen[Fault.KILL])
    return seen


def _at_every_call(
    operation: Operation, fault: Fault, folder: Path, before: object, after: object
) -> list[str]:
    calls: list[str] = []
    while True:
        place = folder / f"{fault.name}-{len(calls)}"
        shutil.copytree(folder / "first", place)
        hit, said_done = _run_with_fault(operation, place, fault, len(calls))
        seen = operation.look(place)
        where = f"call {len(calls)} ({hit}, after {calls[-3:]}) was {fault.value}"
        assert seen in (before, after), f"{where}: {seen}"
        assert seen == after or not said_done, f"{where}: nobody was told"
        if hit is None:
            return calls
        operation.run(place)
        assert operation.look(place) == after, f"{where}: not to be repeated"
        shutil.rmtree(place)
        calls.append(hit)


def _run_with_fault(
    operation: Operation, place: Path, fault: Fault, index: int
) -> tuple[str | None, bool]:
    """The name of the call that the fault happened at, None where there were no more calls.

    And whether the operation said that all is well.
    """
    child = os.fork()
    if child == 0:
        _be_traced(operation, place)
    os.waitpid(child, 0)
    _LIBC.ptrace(_SETOPTIONS, child, None, ctypes.c_void_p(_EXITKILL | _SYSGOOD))
    count, hit = 0, None
    while isinstance(begin := _next_stop(child), _Registers):
        name = _name(begin, fault)
        if name is not None and count >= index:
            hit = hit or name
            if fault not in _ERRNO:
                _kill(child, begin, fault)
                return hit, False
            end = _refuse(child, begin, _ERRNO[fault])  # and it stays so
        else:
            count += name is not None
            end = _next_stop(child)
        if not isinstance(end, _Registers):
            return hit, end == _DONE
    return hit, begin == _DONE


def _be_traced(operation: Operation, place: Path) -> None:
    """In the child: run and end, whatever happens."""
    status = _BROKEN
    try:
        _LIBC.ptrace(_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        operation.run(place)
        status = _DONE
    except (OSError, *operation.raises):
        status = _TOLD
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class _Registers(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in re.findall(
            r"\w+",
            "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp "
            "ss fs_base gs_base ds es fs gs",
        )
    ]


def _next_stop(child: int) -> _Registers | int:
    """The child's registers where it begins or ends its next call; its status once it ended."""
    passed = 0
    while True:
        _LIBC.ptrace(_SYSCALL, child, None, ctypes.c_void_p(passed))
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            ended = os.waitstatus_to_exitcode(status)
            assert ended in (_DONE, _TOLD), f"the operation failed in another way: {ended}"
            return ended
        if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
            registers = _Registers()
            _LIBC.ptrace(_GETREGS, child, None, ctypes.byref(registers))
            return registers
        passed = os.WSTOPSIG(status)


def _name(registers: _Registers, fault: Fault) -> str | None:
    """The call that begins, if the fault can happen to it."""
    name = _CALLS.get(registers.orig_rax)
    if name in _FLAGS and not getattr(registers, _FLAGS[name]) & _CHANGING:
        return None
    return name if fault not in _SUFFERS or name in _SUFFERS[fault] else None


def _kill(child: int, registers: _Registers, fault: Fault) -> None:
    if fault is Fault.TEAR:
        registers.rdx //= 2
        _LIBC.ptrace(_SETREGS, child, None, ctypes.byref(registers))
        _next_stop(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _refuse(child: int, registers: _Registers, errno: int) -> _Registers | int:
    """Have the kernel do nothing, and answer with an error."""
    registers.orig_rax = ctypes.c_ulonglong(-1).value
    _LIBC.ptrace(_SETREGS, child, None, ctypes.byref(registers))
    end = _next_stop(child)
    assert isinstance(end, _Registers)
    end.rax = ctypes.c_ulonglong(-errno).value
    _LIBC.ptrace(_SETREGS, child, None, ctypes.byref(end))
    return end


def _assert_synced(calls: list[str]) -> None:
    """Nothing gets its name before its bytes are on the disk, and names get there too.

    A killed process shows neither: what it wrote is in the kernel's hands.
    """
    for index, call in enumerate(calls):
        if call.startswith("rename"):
            before = [c for c in calls[:index] if c in ("write", "fsync")]
            assert before[-1] == "fsync", calls[: index + 1]
            assert "fsync" in calls[index:], calls


def ruin(path: Path, damage: str) -> None:
    """What disks and hands do to files."""
    data = bytearray(path.read_bytes())
    match damage:
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncate":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
