"""From records to examples: token ids of prompts and options, checked against the engine's limits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Record

CHUNK = 1024
"""Records encoded at once: enough to keep the tokenizer's threads busy, few enough to fit in memory."""


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token_id: int | None

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, verbose: bool
    ) -> Mapping[str, list[list[int]]]: ...


def tokenize(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    context_length: int,
    truncate: bool = False,
    append_eos: bool = False,
) -> list[Example]:
    """Return the records as token ids, in their order.

    A prompt is what the tokenizer makes of it alone, with the special tokens that it puts before a text (BOS)
    but none of those it puts after one (T5's EOS): so a server, which sees just the prompt, reads the same.
    An option is what follows those ids in prompt + option; where the two merge into a token across their
    boundary, it is the option's ids alone.

    context_length: the most tokens that a prompt and its longest option may have together.
    truncate: drop tokens at the start of too long a prompt, after its BOS.
    append_eos: end completions (the option of a record with only one) with the tokenizer's EOS.

    UserError, naming the record, for a prompt or an option without tokens, for options that have the same
    tokens, and for what is too long; and if append_eos finds no EOS.
    """
    if append_eos and tokenizer.eos_token_id is None:
        raise UserError("--append-eos: this tokenizer has no EOS token: set one, or leave the option out")
    before, after = _special_tokens(tokenizer)
    examples = []
    for start in range(0, len(records), CHUNK):
        chunk = records[start : start + CHUNK]
        for record, example in zip(chunk, _encode_records(chunk, tokenizer, after), strict=True):
            _check_tokens(record, example)
            if append_eos and len(example.options) == 1:
                example = replace(example, options=((*example.options[0], tokenizer.eos_token_id),))
            if example.length > context_length:
                example = _shortened(record, example, context_length, before, truncate)
            examples.append(example)
    return examples


def _encode(tokenizer: Tokenizer, texts: list[str], special: bool) -> list[list[int]]:
    # transformers refuses an empty list. verbose: no warning about lengths, which are checked here.
    return tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"] if texts else []


def _special_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return how many tokens the tokenizer puts before and after every text.

    Told from a text encoded with and without them, not from their ids: a prompt may end in a literal "</s>".
    """
    (bare,), (whole,) = (_encode(tokenizer, ["a"], special) for special in (False, True))
    before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return before, len(whole) - before - len(bare)


def _encode_records(records: Sequence[Record], tokenizer: Tokenizer, after: int) -> list[Example]:
    """Return the records' ids without the `after` special tokens at the end, unchecked."""
    texts = [text for r in records for text in (r.prompt, *(r.prompt + option for option in r.options))]
    encoded = iter([ids[: len(ids) - after] for ids in _encode(tokenizer, texts, special=True)])
    pairs = []
    for record in records:
        prompt = next(encoded)
        pairs.append((prompt, [_rest(next(encoded), prompt) for _ in record.options]))
    merged = [
        text
        for record, (_, rests) in zip(records, pairs, strict=True)
        for text, rest in zip(record.options, rests, strict=True)
        if rest is None
    ]
    alone = iter(_encode(tokenizer, merged, special=False))
    return [
        Example(
            tuple(prompt),
            tuple(tuple(next(alone) if rest is None else rest) for rest in rests),
            record.label,
        )
        for record, (prompt, rests) in zip(records, pairs, strict=True)
    ]


def _rest(ids: list[int], prompt: list[int]) -> list[int] | None:
    """Return what follows the prompt, or None if the option's text merged with it."""
    return ids[len(prompt) :] if ids[: len(prompt)] == prompt else None


def _check_tokens(record: Record, example: Example) -> None:
    # An engine with rotary embeddings dies of a sequence without tokens.
    if not example.prompt:
        raise UserError(f"{record.where}: the prompt has no tokens: give it some text")
    for i, option in enumerate(example.options):
        if not option:
            name = f"option {i}" if len(record.options) > 1 else "the completion"
            raise UserError(f"{record.where}: {name} has no tokens: give it some text")
        first = example.options.index(option)
        if first < i:
            raise UserError(
                f"{record.where}: options {first} and {i} have the same tokens, so no model can tell them "
                "apart: change or remove one"
            )


def _shortened(record: Record, example: Example, context_length: int, before: int, truncate: bool) -> Example:
    """Keep the prompt's first `before` tokens, and as many of its last ones as the longest option permits."""
    longest = example.length - len(example.prompt)
    if not truncate:
        raise UserError(
            f"{record.where}: {len(example.prompt)} tokens of prompt and {longest} of the longest option "
            f"exceed the context of {context_length}: shorten the record, or pass --truncate-prompts"
        )
    kept = context_length - longest - before
    if kept < 1:
        raise UserError(
            f"{record.where}: {longest} tokens of the longest option leave no room for the prompt in the "
            f"context of {context_length}: shorten the option"
        )
    return replace(example, prompt=example.prompt[:before] + example.prompt[-kept:])
