"""More adapters than a server has slots: evaluated in waves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sglang_mezo_plugin.server.client import Server
from sglang_mezo_plugin.server.completions import Completion, Job
from sglang_mezo_plugin.server.errors import Refused, ServerError

if TYPE_CHECKING:
    import torch

# A server that loses its adapters more often within one wave does not last a generation.
RELOADS = 3


@dataclass(frozen=True)
class Member:
    """An adapter and what it is asked. tensors: made anew at each call, so that only a wave's are in memory.

    config: PEFT's. jobs: their `adapter` is filled in.
    """

    tensors: Callable[[], Mapping[str, torch.Tensor]]
    config: Mapping[str, Any]
    jobs: Sequence[Job]


Outcomes = list[Completion | ServerError]


def evaluate_members(server: Server, members: Sequence[Member], concurrency: int) -> list[Outcomes]:
    """Return the outcomes of each member's jobs, in order; an error for a job that failed for good.

    As many members at once as the server has free slots. If it restarts meanwhile, and so has lost the
    adapters, they are loaded again, and members that had not got all answers are asked again.
    Raises what `Server.evaluate` does.
    """
    outcomes: list[Outcomes] = []
    while len(outcomes) < len(members):
        slots = server.free_slots()
        outcomes += _wave(server, members[len(outcomes) : len(outcomes) + slots], concurrency)
    return outcomes


def _wave(server: Server, members: Sequence[Member], concurrency: int) -> list[Outcomes]:
    done: dict[int, Outcomes] = {}
    for reloads in range(RELOADS + 1):
        loaded = {
            number: _load(server, member) for number, member in enumerate(members) if number not in done
        }
        names = {number: name for number, name in loaded.items() if isinstance(name, str)}
        done |= {
            number: [error] * len(members[number].jobs)
            for number, error in loaded.items()
            if isinstance(error, Refused)
        }
        jobs = [replace(job, adapter=name) for number, name in names.items() for job in members[number].jobs]
        outcomes = iter(server.evaluate(jobs, concurrency))
        present = set(server.adapters())
        for number, name in names.items():
            found = list(islice(outcomes, len(members[number].jobs)))
            lost = name not in present and any(isinstance(outcome, Refused) for outcome in found)
            if not lost or reloads == RELOADS:
                done[number] = found
        for name in present.intersection(names.values()):
            server.unload(name)
        if len(done) == len(members):
            break
    return [done[number] for number in range(len(members))]


def _load(server: Server, member: Member) -> str | Refused:
    try:
        return server.load(member.tensors(), member.config)
    except Refused as error:
        return error
