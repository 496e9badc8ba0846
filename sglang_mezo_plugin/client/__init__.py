"""The client of a running SGLang server: adapters loaded into it, and completions asked of them.

    with Server("http://127.0.0.1:30000", run="my_run", api_key=key) as server:
        server.unload_leftovers()                          # of a process of this run that was killed
        server.check_lora(tensors, config)                 # or a UserError with the flags that it lacks
        jobs = [Job(prompt, Sampling(max_new_tokens=64)) for prompt in prompts]
        (outcomes,) = server.evaluate_members([Member(lambda: tensors, config, jobs)], concurrency=32)

Nothing here imports SGLang. All errors are UserErrors of one line; SGLang's messages are its own words.
"""

from sglang_mezo_plugin.client.client import Server
from sglang_mezo_plugin.client.errors import (
    Refused,
    ServerError,
    TimedOut,
    Transient,
    Unauthorized,
    Unreachable,
)
from sglang_mezo_plugin.client.transport import Retries
from sglang_mezo_plugin.training.members import Completion, Job, Member, Sampling

__all__ = [
    "Completion",
    "Job",
    "Member",
    "Refused",
    "Retries",
    "Sampling",
    "Server",
    "ServerError",
    "TimedOut",
    "Transient",
    "Unauthorized",
    "Unreachable",
]
