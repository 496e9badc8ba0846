"""Where and with what a figure was measured: it goes into every JSON file beside the figures."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("sglang", "torch", "triton", "transformers")


def provenance(script: str, words: Sequence[str]) -> dict[str, object]:
    """Return {"machine", "stack", "commit", "command", "date"}: strings, None for what cannot be found out.

    script: a file of this folder. words: its command line.
    """
    return {
        "machine": machine(),
        "stack": stack(),
        "commit": commit(),
        "command": shlex.join(["python", f"benchmarks/{Path(script).name}", *words]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, object]:
    """Return {"gpu", "gpus", "driver", "cpu", "cpus"}."""
    has_gpu = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "gpus": torch.cuda.device_count(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
        if has_gpu
        else None,
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def stack() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that a step runs through."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" if files differ from it; None outside a checkout."""
    head = _output("git", "-C", str(REPOSITORY), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(REPOSITORY), "status", "--porcelain")
    return f"{head}-dirty" if head and changed else head


def device_name(device: str) -> str:
    """Return what a table is headed with."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{_cpu()}, {os.cpu_count()} cores"


def _version(package: str) -> str | None:
    if package == "torch":
        return torch.__version__  # names the CUDA that it was built for
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
