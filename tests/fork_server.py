"""A process that has imported SGLang once, which takes ten seconds, and of which others are forked."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest

PACKAGE = "sglang_mezo_plugin"
PRELOADED = [
    *(f"{PACKAGE}.{name}" for name in ("engine.session", "train", "evaluate", "export", "noise.cpu.kernels")),
    *("sglang.srt.models.registry", "torch.utils.tensorboard", "matplotlib.figure"),
]


def fork_server() -> ForkServerContext:
    """Return the context of multiprocessing whose processes are forked; each session of tests has one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as environment:
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment.setenv(name, "1")  # more only wait for each other, on models this small
        forkserver.ensure_running()
    return context
