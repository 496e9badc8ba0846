"""What a run leaves, in PEFT and transformers, and the command `evaluate`, score like the run itself."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Commands
from references import load, loss_and_accuracy, option_scores
from small_runs import saved_model
from whole_runs import METHODS, Run, rows, without

TOLERANCE = 1e-4
BFLOAT16_TOLERANCE = 5e-2


@pytest.fixture
def evaluated(
    commands: Commands, eval_file: Path, tmp_path: Path
) -> Callable[..., tuple[dict[str, float], list[list[float]]]]:
    """Runs `evaluate`; returns what it prints, and the mean log-probability of each option of each row."""

    def evaluate(*words: Any) -> tuple[dict[str, float], list[list[float]]]:
        file = tmp_path / "predictions.jsonl"
        common = ["--eval-file", eval_file, "--device", "cpu", "--predictions-file", file]
        printed = json.loads(commands.succeed("evaluate", *common, *words).stdout)
        predictions = rows(file)
        assert printed["examples"] == len(predictions) == len(rows(eval_file))
        scores = [row["scores"] for row in predictions]
        assert [row["label"] for row in predictions] == [row["label"] for row in rows(eval_file)]
        assert [row["predicted"] for row in predictions] == [int(np.argmax(options)) for options in scores]
        assert np.mean([row["loss"] for row in predictions]) == pytest.approx(printed["loss"], abs=1e-12)
        return printed, scores

    return evaluate


@pytest.mark.parametrize(
    ("name", "method"),
    [("opt", method) for method in METHODS]
    + [pytest.param("llama", method, marks=pytest.mark.long) for method in METHODS],
)
def test_results_score_alike_in_the_run_and_elsewhere(
    name: str,
    method: str,
    evaluated: Callable[..., tuple[dict[str, float], list[list[float]]]],
    whole_run: Callable[..., Run],
    models: Path,
    eval_file: Path,
) -> None:
    run, base, asked = whole_run(method, name), saved_model(name, models), rows(eval_file)
    tolerance = BFLOAT16_TOLERANCE if method == "full-bfloat16" else TOLERANCE
    lora = method.startswith("lora")
    words = ["--model-path", base, "--lora-path", run.output] if lora else ["--model-path", run.output]
    printed, scores = evaluated(*words)
    # The tuned model in the run itself, the same loaded again by SGLang, and by transformers.
    told = rows(run.folder / "evals.jsonl")[-1]
    assert without(told, "step") == pytest.approx(without(printed, "examples", "cache_hit_rate"), abs=1e-6)
    model = load(base, run.output) if lora else load(run.output)
    theirs = option_scores(model, base, asked)
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=tolerance)
    expected = loss_and_accuracy(theirs, asked)
    assert printed["loss"] == pytest.approx(expected["loss"], abs=tolerance)
    if tolerance == TOLERANCE:
        assert printed["accuracy"] == expected["accuracy"]
    # Training has changed more than that.
    assert np.abs(np.subtract(theirs, option_scores(load(base), base, asked))).max() > 3 * tolerance


def test_in_context_examples(
    evaluated: Callable[..., tuple[dict[str, float], list[list[float]]]],
    opt: Path,
    train_file: Path,
    eval_file: Path,
) -> None:
    """They stand before each prompt with the right option, and nothing else does."""
    words = ["--model-path", opt, "--train-file", train_file, "--num-shots", 2, "--seed", 3]
    printed, scores = evaluated(*words, "--batch-size", 3)
    shown = random.Random(3).sample(rows(train_file), 2)
    before = "".join(f"{row['prompt']}{row['options'][row['label']]}\n\n" for row in shown)
    asked = [{**row, "prompt": before + row["prompt"]} for row in rows(eval_file)]
    theirs = option_scores(load(opt), opt, asked)
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=TOLERANCE)
    expected = loss_and_accuracy(theirs, asked)
    assert without(printed, "examples", "cache_hit_rate") == pytest.approx(expected, abs=TOLERANCE)
    assert evaluated("--model-path", opt)[0]["loss"] != pytest.approx(expected["loss"], abs=1e-2)
