"""The tasks by the names that --task takes."""

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Task
from sglang_mezo_plugin.tasks.generic import generic
from sglang_mezo_plugin.tasks.sst2 import sst2

TASKS: dict[str, Task] = {"records": generic, "sst2": sst2}


def find_task(name: str) -> Task:
    """Return the task of that name. UserError, with all names, if there is none."""
    if name not in TASKS:
        raise UserError(f"no task {name!r}: --task takes one of {', '.join(TASKS)}")
    return TASKS[name]
