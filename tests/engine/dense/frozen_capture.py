"""Takes the place of a CUDA graph where there is no GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sglang_mezo_plugin.engine.dense import probes
from sglang_mezo_plugin.engine.graphs import WARM_UPS, Forward
from sglang_mezo_plugin.noise import PairPlan, StepNumbers, UpdatePlan

LAUNCHES = [(PairPlan, "write"), (PairPlan, "move_and_write"), (probes, "gather_pair_into")]
HOSTS = [(UpdatePlan, "accumulate_"), (StepNumbers, "set")]


class FrozenCapture:
    """Runs a forward again at each replay, and sees to it that it does what a graph would do.

    Inside a forward that is captured or replayed no function may be called that takes numbers from the host.
    A replay must make the calls that the capture made, on the same plans and numbers.

    settled: how often weights took a step by themselves.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settled = 0
        self._calls: list[tuple[Any, ...]] | None = None  # of a forward that runs now
        for owner, name in LAUNCHES:
            monkeypatch.setattr(owner, name, self._noting(name, getattr(owner, name)))
        for owner, name in HOSTS:
            monkeypatch.setattr(owner, name, self._refusing(owner, name, getattr(owner, name)))

    def __call__(self, forward: Forward) -> Forward:
        for _ in range(WARM_UPS + 1):
            _, captured = self._run(forward)
        assert {name for name, *_ in captured} == {name for _, name in LAUNCHES}

        def replay() -> torch.Tensor:
            output, calls = self._run(forward)
            assert calls == captured
            return output

        return replay

    def _run(self, forward: Forward) -> tuple[torch.Tensor, list[tuple[Any, ...]]]:
        self._calls = []
        try:
            return forward(), self._calls
        finally:
            self._calls = None

    def _noting(self, name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            own = [arg for arg in args if isinstance(arg, PairPlan | StepNumbers)]
            if self._calls is not None:
                self._calls.append((name, *map(id, own)))
            function(*args)

        return call

    def _refusing(self, owner: Any, name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            assert self._calls is None, f"{name} in a graph"
            self.settled += name == "accumulate_" and isinstance(args[0], PairPlan)
            function(*args)

        return call
