"""What holds for all tests: how they are shared between processes, and the options of SGLang's backends."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fork_server import fork_server

TESTS = Path(__file__).parent
# Rooms whose files share what takes long to make: one process gets all of it.
SHARED = ("client", "commands", "examples")

# More than half of what it takes to import SGLang is compiling it: all processes of the tests share that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(TESTS.parent / ".cache" / "bytecode"))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a process for each core


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("engine", "which of SGLang's backends the engine tests use")
    group.addoption(
        "--attention-backend", help="default: torch_native without a GPU, SGLang's choice with one"
    )
    group.addoption("--lora-backend", help="default: this project's own")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one process have all tests of a file, or of a room, in their order."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            path = item.path.relative_to(TESTS)
            group = path.parts[0] if path.parts[0] in SHARED else str(path)
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def forking_servers() -> Iterator[None]:
    """Servers of SGLang's that are started from now on import it once, see `forking/sitecustomize.py`."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(TESTS / "forking"), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def forked_ranks() -> Iterator[None]:
    """Ranks that are started from now on are forked from a process that has SGLang, where there is no GPU."""
    from torch import cuda

    spawned = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        if not cuda.is_available():
            forked = fork_server()
            patch.setattr(
                multiprocessing,
                "get_context",
                lambda method=None: forked if method == "spawn" else spawned(method),
            )
        yield


@pytest.fixture(scope="session")
def engine_args(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options given, as keyword arguments of SGLang's ServerArgs."""
    options = {name: request.config.getoption(name) for name in ("attention_backend", "lora_backend")}
    return {name: value for name, value in options.items() if value}
