"""The command that a run's summary gives serves its result, which scores over HTTP as in transformers."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from references import load, option_scores, token_ids
from release import copy_release
from small_runs import saved_model
from whole_runs import Run, rows

TOLERANCE = 1e-4
START_SECONDS = 900


@contextmanager
def served(run: Path, log: Path, **environment: str) -> Iterator[Callable[..., Any]]:
    """Start the server of a run's summary; yields a function that sends it a request."""
    python, *words = shlex.split(json.loads((run / "summary.json").read_text())["serve"])
    assert python == "python"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Unless told so, SGLang takes most of the memory for keys and values.
    words += ["--port", str(port), "--max-total-tokens", "1024", "--log-level", "warning"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, *words], env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_up(url):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield lambda path, **body: requests.post(url + path, json=body, timeout=60).json()
    finally:
        server.terminate()  # it ends its own processes
        server.wait(60)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def is_up(url: str) -> bool:
    try:
        return requests.get(url + "/health", timeout=5).ok
    except requests.RequestException:
        return False


def server_scores(
    post: Callable[..., Any], tokenizer_path: Path, asked: list[dict[str, Any]], adapter: str | None
) -> list[list[float]]:
    scores = []
    for options in token_ids(tokenizer_path, asked):
        answers = post(
            "/generate",
            input_ids=[prompt + option for prompt, option in options],
            sampling_params={"max_new_tokens": 1, "temperature": 0},
            return_logprob=True,
            logprob_start_len=0,
            **({"lora_path": [adapter] * len(options)} if adapter else {}),
        )
        logprobs = [[row[0] for row in answer["meta_info"]["input_token_logprobs"]] for answer in answers]
        scores.append(
            [np.mean(row[-len(option) :]) for row, (_, option) in zip(logprobs, options, strict=True)]
        )
    return scores


@pytest.mark.usefixtures("forking_servers")
@pytest.mark.parametrize("name", ["opt", pytest.param("llama", marks=pytest.mark.long)])
def test_adapters_are_served_beside_the_base_model(
    name: str,
    whole_run: Callable[..., Run],
    models: Path,
    eval_file: Path,
    tmp_path: Path,
) -> None:
    run, base, asked = whole_run("lora", name), saved_model(name, models), rows(eval_file)
    with served(run.folder, tmp_path / "log") as post:
        tuned, untuned = (server_scores(post, base, asked, adapter) for adapter in ("mezo", None))
    expected = option_scores(load(base, run.output), base, asked)
    np.testing.assert_allclose(tuned, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(untuned, option_scores(load(base), base, asked), rtol=0, atol=TOLERANCE)
    assert np.abs(np.subtract(tuned, untuned)).max() > 100 * TOLERANCE


def test_models_are_served_by_the_release_as_it_is(
    whole_run: Callable[..., Run],
    opt: Path,
    eval_file: Path,
    tmp_path: Path,
) -> None:
    """Of what is trained here, that can serve on a CPU nothing but an OPT with relu.

    Unpatched, it has no adapters for OPT, and its rotary embeddings need vLLM there.
    """
    run, asked = whole_run("full"), rows(eval_file)
    copy_release(tmp_path)
    own = {"PYTHONPATH": str(tmp_path), "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    with served(run.folder, tmp_path / "log", **own) as post:
        scores = server_scores(post, opt, asked, None)
    expected = option_scores(load(run.output), opt, asked)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    before = option_scores(load(opt), opt, asked)
    assert np.abs(np.subtract(expected, before)).max() > 100 * TOLERANCE
