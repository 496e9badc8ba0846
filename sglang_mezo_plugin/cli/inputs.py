"""From the data options of a command to tokenised examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sglang_mezo_plugin.cli.options import EvaluateOptions, TrainOptions
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.limits import UNSAID_LENGTH, context_length, vocab_size
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.tasks.prompts import with_template
from sglang_mezo_plugin.tasks.records import read_records
from sglang_mezo_plugin.tasks.registry import find_task
from sglang_mezo_plugin.tasks.tokenize import tokenize
from sglang_mezo_plugin.training.objectives import check_objective, default_objective

# Options of examples, and of the model whose tokens they become.
Tasked = TrainOptions | EvaluateOptions


def read_data(options: TrainOptions, checkpoint: Path) -> tuple[list[Example], list[Example], str]:
    """Return examples to train on, to evaluate on, and the objective's name."""
    records = [load_records(options, options.train_file, options.max_train_examples)]
    if options.eval_file:
        records.append(load_records(options, options.eval_file, options.max_eval_examples))
    objective = choose_objective(options, *records)
    tokenizer = load_tokenizer(options, checkpoint)
    examples = [load_examples(options, part, tokenizer, checkpoint) for part in records]
    return examples[0], examples[1] if options.eval_file else [], objective


def load_records(options: Tasked, source: str, limit: int | None = None) -> list[Record]:
    records = read_records(source, find_task(options.task), limit)
    return with_template(records, options.prompt_template) if options.prompt_template is not None else records


def choose_objective(options: Tasked, *record_lists: Sequence[Record]) -> str:
    """Return --objective or its default; UserError unless it suits all records."""
    objective = options.objective or default_objective(record_lists[0])
    for records in record_lists:
        check_objective(objective, records)
    return objective


def load_tokenizer(options: Tasked, checkpoint: Path) -> Any:
    path = options.tokenizer_path or checkpoint
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises all kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"no tokenizer in {path} ({reason}): pass --tokenizer-path") from None
    # For some models transformers makes an empty tokenizer where there are no files of one.
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise UserError(f"no tokenizer in {path} (it makes no tokens of a text): pass --tokenizer-path")
    return tokenizer


def load_examples(
    options: Tasked, records: Sequence[Record], tokenizer: Any, checkpoint: Path
) -> list[Example]:
    length = _context_length(options.context_length, checkpoint)
    return tokenize(
        records, tokenizer, length, options.truncate_prompts, options.append_eos, vocab_size(checkpoint)
    )


def _context_length(asked: int | None, checkpoint: Path) -> int:
    known = context_length(checkpoint)
    if asked is None:
        if known is None:
            raise UserError(
                f"{checkpoint / 'config.json'} does not say how many positions the model knows: pass "
                "--context-length"
            )
        return known
    if not 0 < asked <= (known or UNSAID_LENGTH):
        limit = f"the model's {known}" if known else f"SGLang's {UNSAID_LENGTH} for a model that does not say"
        raise UserError(f"--context-length must be from 1 to {limit}, not {asked}")
    return asked


def digest(examples: Sequence[Any]) -> str:
    """Return the SHA-256 of examples: of file, task, template, tokenizer and all else that makes them."""
    sha = hashlib.sha256()
    for example in examples:
        sha.update(repr(example).encode())
    return sha.hexdigest()
