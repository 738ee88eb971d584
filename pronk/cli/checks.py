"""What `pronk doctor` looks at: every function looks at one thing and says what to do about it."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from pronk.cli.cluster import free_ports
from pronk.errors import Misconfigured
from pronk.finding import Finding, Verdict
from pronk.hardware import processor, usable_cores

_LEAST_DISK = 2 << 30
_LEAST_MEMORY = 2 << 30
_EXTRAS = {
    "atari": {"ale_py": "ale-py"},
    "minatar": {"minatar": "minatar"},
    "minigrid": {"minigrid": "minigrid"},
}
_CORE = {
    "actor": {"gymnasium": "gymnasium", "onnxruntime": "onnxruntime", "redis": "redis"},
    "learner": {"torch": "torch", "onnx": "onnx", "matplotlib": "matplotlib"},
    "param-server": {"grpc_reflection": "grpcio-reflection"},
}


def python() -> Finding:
    """The interpreter."""
    enough = sys.version_info >= (3, 11)
    return Finding(
        "python",
        "ok" if enough else "missing",
        f"{platform.python_version()} ({sys.executable})",
        "" if enough else "install Python 3.11 or newer",
    )


def cores() -> Finding:
    """Processor cores that this process may use."""
    count = usable_cores()
    return Finding(
        "cores",
        "ok" if count >= 2 else "optional",
        f"{count} × {processor()}",
        "" if count >= 2 else "actors and learner will take turns on one core",
    )


def memory() -> Finding:
    """Memory of the machine."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    enough = total >= _LEAST_MEMORY
    advice = "" if enough else "a cluster wants 2 GiB: use fewer actors, a smaller buffer.max_bytes"
    return Finding("memory", "ok" if enough else "optional", f"{total / 2**30:.1f} GiB", advice)


def disk(folder: Path) -> Finding:
    """Room where runs are written."""
    free = shutil.disk_usage(folder).free
    enough = free >= _LEAST_DISK
    advice = "" if enough else "checkpoints may fail: free some space or use another --run-dir"
    found = f"{free / 2**30:.1f} GiB free in {folder}"
    return Finding("disk", "ok" if enough else "optional", found, advice)


def services() -> list[Finding]:
    """What each service needs."""
    return [_packages(extra, needed, "missing") for extra, needed in _CORE.items()]


def environments() -> list[Finding]:
    """Environment packages, by extra."""
    return [_packages(extra, needed, "optional") for extra, needed in _EXTRAS.items()]


def accelerator() -> Finding:
    """A GPU for the learner, and bfloat16."""
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "optional", "no torch", "")
    import torch

    if torch.cuda.is_available():
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        return Finding("gpu", "ok", f"{torch.cuda.get_device_name()}, {bf16}")
    built = "torch for CPU only" if torch.version.cuda is None else "no GPU in sight"
    return Finding("gpu", "optional", built, "the learner runs on the CPU: fine for small networks")


def bfloat16() -> Finding:
    """Whether the CPU computes in bfloat16."""
    flags = _cpu_flags()
    if flags is None:
        return Finding("bf16", "optional", "cannot be told here", "")
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        return Finding("bf16", "ok", ", ".join(native), "for conv nets: learner.precision=bfloat16")
    return Finding("bf16", "optional", "not in hardware", "keep learner.precision: float32")


def buffer() -> Finding:
    """A Valkey or Redis server to start."""
    from pronk.transport.valkey import valkey_command

    try:
        command = valkey_command(6379, Path(tempfile.gettempdir()), 1 << 26)
    except Misconfigured as error:
        return Finding("valkey", "missing", "no server", str(error))
    return Finding("valkey", "ok", command[0])


def allocator() -> Finding:
    """Glibc's allocator, which is tuned at start."""
    if not sys.platform.startswith("linux"):
        return Finding("allocator", "ok", "the system's own; nothing to tune")
    try:
        ctypes.CDLL(None).mallopt  # noqa: B018 - asks whether it is there
    except AttributeError:
        return Finding("allocator", "optional", "no glibc", "large messages cost more page faults")
    return Finding("allocator", "ok", "glibc, tuned at start")


def loopback() -> Finding:
    """Ports on 127.0.0.1."""
    try:
        with socket.create_server(("127.0.0.1", free_ports(1)[0])) as server:
            address = server.getsockname()
            socket.create_connection(address, timeout=2).close()
    except (OSError, Misconfigured) as error:
        return Finding("loopback", "missing", str(error), "allow connections to 127.0.0.1")
    return Finding("loopback", "ok", "ports can be opened and reached")


def docker() -> Finding:
    """Docker, for the cluster in containers."""
    found = shutil.which("docker")
    advice = "" if found else "only needed for the cluster in containers"
    return Finding("docker", "ok" if found else "optional", found or "not installed", advice)


def _cpu_flags() -> set[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return None


def _packages(extra: str, needed: dict[str, str], lacking: Verdict) -> Finding:
    found, absent = [], []
    for module, package in needed.items():
        if importlib.util.find_spec(module) is None:
            absent.append(package)
        else:
            found.append(f"{package} {importlib.metadata.version(package)}")
    if not absent:
        return Finding(extra, "ok", ", ".join(found))
    advice = f"pip install 'pronk[{extra}]'"
    return Finding(extra, lacking, f"no {', '.join(absent)}", advice)
