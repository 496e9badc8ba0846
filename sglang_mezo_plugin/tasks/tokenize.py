"""From records to examples: token ids of prompts and options, checked against the engine's limits."""

from collections.abc import Sequence
from dataclasses import replace

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.chat_template import encode_chats
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.tasks.tokenizer import Tokenizer, encode

CHUNK = 1024
"""Records encoded at once: enough to keep the tokenizer's threads busy, few enough to fit in memory."""


def tokenize(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    context_length: int,
    truncate: bool = False,
    append_eos: bool = False,
    vocab_size: int | None = None,
) -> list[Example]:
    """Return the records as token ids, in their order.

    A prompt is what the tokenizer makes of it alone, with the special tokens that it puts before a text (BOS)
    but none of those it puts after one (T5's EOS): so a server, which sees just the prompt, reads the same.
    An option is what follows those ids in prompt + option; where the two merge into a token across their
    boundary, it is the option's ids alone.

    context_length: the most tokens that a prompt and its longest option may have together.
    truncate: drop tokens at the start of too long a prompt, after its BOS.
    append_eos: end completions (the option of a record with only one) with the tokenizer's EOS.
    vocab_size: ids that the model has embeddings for; None if that is not known.

    A chat is what the tokenizer's template makes of it (`encode_chats`), so neither of the two is for chats.

    UserError, naming the record, for a prompt or an option without tokens, for options that have the same
    tokens, for a token that the model does not have, and for what is too long; and if append_eos finds no
    EOS.
    """
    if append_eos and tokenizer.eos_token_id is None:
        raise UserError("--append-eos: this tokenizer has no EOS token: set one, or leave the option out")
    before, after = _special_tokens(tokenizer)
    examples = []
    for start in range(0, len(records), CHUNK):
        chunk = records[start : start + CHUNK]
        texts = iter(_encode_texts([r for r in chunk if isinstance(r.prompt, str)], tokenizer, after))
        chats = iter(encode_chats([r for r in chunk if not isinstance(r.prompt, str)], tokenizer))
        for record in chunk:
            example = next(texts if isinstance(record.prompt, str) else chats)
            _check_tokens(record, example)
            if append_eos and len(example.options) == 1:
                example = _with_eos(record, example, tokenizer)
            if vocab_size is not None:
                _check_vocabulary(record, example, tokenizer, vocab_size)
            if example.length > context_length:
                example = _shortened(record, example, context_length, before, truncate)
            examples.append(example)
    return examples


def _special_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return how many tokens the tokenizer puts before and after every text.

    Told from a text encoded with and without them, not from their ids: a prompt may end in a literal "</s>".
    """
    (bare,), (whole,) = (encode(tokenizer, ["a"], special) for special in (False, True))
    before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return before, len(whole) - before - len(bare)


def _encode_texts(records: Sequence[Record], tokenizer: Tokenizer, after: int) -> list[Example]:
    """Return the records' ids without the `after` special tokens at the end, unchecked."""
    texts = [text for r in records for text in (r.prompt, *(r.prompt + option for option in r.options))]
    encoded = iter([ids[: len(ids) - after] for ids in encode(tokenizer, texts, special=True)])
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
    alone = iter(encode(tokenizer, merged, special=False))
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


def _with_eos(record: Record, example: Example, tokenizer: Tokenizer) -> Example:
    if not isinstance(record.prompt, str):
        raise UserError(
            f"{record.where}: a chat, which ends as its template ends a turn: leave --append-eos out"
        )
    return replace(example, options=((*example.options[0], tokenizer.eos_token_id),))


def _check_vocabulary(record: Record, example: Example, tokenizer: Tokenizer, vocab_size: int) -> None:
    # The engine would read beyond its embeddings: an IndexError on the CPU, the end of the device's context
    # on a GPU.
    largest = max(max(example.prompt), *map(max, example.options))
    if largest >= vocab_size:
        raise UserError(
            f"{record.where}: token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}) is beyond the "
            f"model's vocabulary of {vocab_size}: pass --tokenizer-path with the model's own tokenizer, or "
            "resize the model's embeddings to the tokenizer"
        )


def _shortened(record: Record, example: Example, context_length: int, before: int, truncate: bool) -> Example:
    """Keep the prompt's first `before` tokens, and as many of its last ones as the longest option permits."""
    longest = example.length - len(example.prompt)
    plain = isinstance(record.prompt, str)  # a chat without its beginning is none that the template makes
    if not truncate or not plain:
        cure = "shorten the record, or pass --truncate-prompts" if plain else "shorten or drop this chat"
        raise UserError(
            f"{record.where}: {len(example.prompt)} tokens of prompt and {longest} of the longest option "
            f"exceed the context of {context_length}: {cure}"
        )
    kept = context_length - longest - before
    if kept < 1:
        raise UserError(
            f"{record.where}: {longest} tokens of the longest option leave no room for the prompt in the "
            f"context of {context_length}: shorten the option"
        )
    return replace(example, prompt=example.prompt[:before] + example.prompt[-kept:])
