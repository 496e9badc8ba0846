"""How much of a GPU's memory is taken. On a CPU nothing is known: None."""

from __future__ import annotations

import gc
import threading
from types import TracebackType

import torch

GIB = 2**30
NOT_ENOUGH = ("out of memory", "Not enough memory", "can't allocate memory", "GiB are free")


class PeakUsed:
    """Watches from a thread, while it is open, how much of the device is used, by this process or another.

    What nvidia-smi would show: the context, what the allocator keeps, what libraries took by themselves.
    """

    INTERVAL = 0.002  # seconds

    def __init__(self, device: str) -> None:
        self.gib: float | None = None
        self._watches = device == "cuda"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakUsed:
        if self._watches:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watches:
            self._done.set()
            self._thread.join()

    def _watch(self) -> None:
        while True:
            self.gib = max(self.gib or 0.0, used_gib("cuda"))
            if self._done.wait(self.INTERVAL):
                return


def used_gib(device: str) -> float | None:
    """Return what is not free on the device, in GiB, whoever uses it."""
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB


def allocated_gib(device: str) -> float | None:
    """Return the most that tensors have taken since `forget_peak`, in GiB."""
    return torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None


def forget_peak(device: str) -> None:
    """Let `allocated_gib` begin anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def free_memory(device: str) -> None:
    """Give back to the device what nothing refers to any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch, SGLang, or this project says that something does not fit into memory."""
    return any(words in str(error) for words in NOT_ENOUGH)
