"""One completion: what is asked of a server, in its two dialects, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_mezo_plugin.client.errors import Refused, Transient
from sglang_mezo_plugin.client.transport import Transport
from sglang_mezo_plugin.training.members import Completion, Job, Sampling


async def complete(transport: Transport, model: str, job: Job) -> Completion:
    """Ask for a completion. model: the name of the server's base model.

    Raises what `Transport.send` does.
    """
    chat = not isinstance(job.prompt, str) and bool(job.prompt) and isinstance(job.prompt[0], Mapping)
    path, body = (
        ("/v1/chat/completions", _chat_body(model, job)) if chat else ("/generate", _generate_body(job))
    )
    read = _read_chat if chat else _read_generate

    async def attempt() -> Completion:
        answer = await transport.once(path, body)
        try:
            completion = read(answer)
        except (KeyError, TypeError, IndexError) as error:
            raise Refused(
                f"{transport.url}{path} answers something else than a completion "
                f"({type(error).__name__} {error}): correct --server, it must be an SGLang server's root",
                200,
                str(answer)[:100],
            ) from None
        if completion.finish_reason == "abort":
            raise Transient(f"{transport.url}{path} aborts completions: see the server's log, and resume")
        return completion

    return await transport.retrying(attempt)


def _generate_body(job: Job) -> dict[str, Any]:
    sampling = job.sampling
    prompt = {"text": job.prompt} if isinstance(job.prompt, str) else {"input_ids": list(job.prompt)}
    return {
        **prompt,
        "sampling_params": {
            "max_new_tokens": sampling.max_new_tokens,
            **_common(sampling),
            "sampling_seed": sampling.seed,
        },
        "lora_path": job.adapter,
    }


def _chat_body(model: str, job: Job) -> dict[str, Any]:
    # SGLang takes a model's name that it does not know for the base model's: an adapter needs `lora_path`.
    return {
        "model": model,
        "lora_path": job.adapter,
        "messages": list(job.prompt),
        "max_tokens": job.sampling.max_new_tokens,
        **_common(job.sampling),
        "seed": job.sampling.seed,
        "separate_reasoning": False,  # a reward sees all of the text
    }


def _common(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": list(sampling.stop),
    }


def _read_generate(answer: Mapping[str, Any]) -> Completion:
    meta = answer["meta_info"]
    return Completion(
        answer["text"], meta["finish_reason"]["type"], meta["prompt_tokens"], meta["completion_tokens"]
    )


def _read_chat(answer: Mapping[str, Any]) -> Completion:
    choice, usage = answer["choices"][0], answer["usage"]
    text = choice["message"]["content"] or ""  # none if the first token ends it
    return Completion(text, choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"])
