"""Token ids of prompts and options, with tokenizers that put special tokens before or after a text."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.tasks.tokenize import CHUNK, tokenize

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
EOS = 1
BARE, BOS, EOS_AFTER, BOTH = "$A", "</s> $A", "$A </s>", "<pad> <pad> $A </s>"
WHERE = "d.jsonl line 3"


def record(prompt: str, *options: str, label: int = 0) -> Record:
    return Record(prompt, options, label, WHERE)


def ids(tokenizer: PreTrainedTokenizerFast, *names: str) -> tuple[int, ...]:
    return tuple(tokenizer.convert_tokens_to_ids(list(names)))


@pytest.mark.parametrize(
    ("single", "before"), [(BARE, ()), (BOS, ("</s>",)), (EOS_AFTER, ()), (BOTH, ("<pad>", "<pad>"))]
)
def test_special_tokens(make_tokenizer: MakeTokenizer, single: str, before: tuple[str, ...]) -> None:
    """Those before a text begin the prompt; those after it are nowhere. One written in the text stays."""
    tokenizer = make_tokenizer(single)
    (plain, literal) = tokenize([record("ab", " go", "it", label=1), record("a</s>", "b")], tokenizer, 9)
    options = ids(tokenizer, "Ġg", "o"), ids(tokenizer, "it")
    assert plain == Example(ids(tokenizer, *before, "a", "b"), options, 1)
    assert literal == Example(ids(tokenizer, *before, "a", "</s>"), (ids(tokenizer, "b"),), 0)


@pytest.mark.parametrize("single", [BARE, BOS, EOS_AFTER, BOTH])
def test_a_merge_across_the_boundary(make_tokenizer: MakeTokenizer, single: str) -> None:
    """ "i" + "t" is one token: the prompt stays as it is alone, for this option and for the other."""
    tokenizer = make_tokenizer(single)
    before = tuple(tokenizer("")["input_ids"][: {BARE: 0, BOS: 1, EOS_AFTER: 0, BOTH: 2}[single]])
    merging, other = tokenize([record("hi", "t", "a", "th"), record("b ", "go", "it")], tokenizer, 9)
    assert merging.prompt == (*before, *ids(tokenizer, "h", "i"))
    assert merging.options == (ids(tokenizer, "t"), ids(tokenizer, "a"), ids(tokenizer, "t", "h"))
    assert other.prompt == (*before, *ids(tokenizer, "b", "Ġ"))
    assert other.options == (ids(tokenizer, "g", "o"), ids(tokenizer, "it"))


def test_an_empty_prompt_is_bos_alone(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(BOS)
    assert tokenize([record("", "a")], tokenizer, 2) == [Example((1,), (ids(tokenizer, "a"),), 0)]
    assert tokenize([], tokenizer, 2) == []


def test_eos_ends_completions_alone(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(BOS)
    records = [record("p", "a"), record("p", "a", "b", label=1), record("pi", "t")]
    without, with_eos = tokenize(records, tokenizer, 9), tokenize(records, tokenizer, 9, append_eos=True)
    assert [example.options for example in with_eos] == [
        (ids(tokenizer, "a", "</s>"),),
        without[1].options,
        (ids(tokenizer, "t", "</s>"),),
    ]
    assert [example.prompt for example in with_eos] == [example.prompt for example in without]


@pytest.mark.parametrize(
    ("single", "options", "append_eos", "expected"),
    [
        (BARE, ("xy", "z"), False, ("c", "d", "e", "f")),
        (BOS, ("xy", "z"), False, ("</s>", "d", "e", "f")),
        (BOTH, ("xy", "z"), False, ("<pad>", "<pad>", "e", "f")),
        (BOS, ("x",), True, ("</s>", "d", "e", "f")),
        (BOS, ("wxyz",), False, ("</s>", "f")),
        (BOS, ("it",), False, ("</s>", "c", "d", "e", "f")),
    ],
)
def test_truncation_keeps_special_tokens_and_the_end(
    make_tokenizer: MakeTokenizer,
    single: str,
    options: tuple[str, ...],
    append_eos: bool,
    expected: tuple[str, ...],
) -> None:
    tokenizer = make_tokenizer(single)
    (example,) = tokenize([record("abcdef", *options)], tokenizer, 6, truncate=True, append_eos=append_eos)
    assert example.prompt == ids(tokenizer, *expected)
    assert example.length == 6


@pytest.mark.parametrize("truncate", [False, True])
def test_what_just_fits_is_left_alone(make_tokenizer: MakeTokenizer, truncate: bool) -> None:
    tokenizer = make_tokenizer(BOS)
    assert tokenize([record("abc", "x", "yz")], tokenizer, 6, truncate)[0].prompt == ids(
        tokenizer, "</s>", "a", "b", "c"
    )


@pytest.mark.parametrize(
    ("single", "bad", "options", "message"),
    [
        (BARE, record("", "a"), {}, "the prompt has no tokens: give it some text"),
        (EOS_AFTER, record("", "a"), {}, "the prompt has no tokens"),
        (BOS, record("p", ""), {}, "the completion has no tokens"),
        (BOS, record("p", ""), {"append_eos": True}, "the completion has no tokens"),
        (EOS_AFTER, record("p", "a", ""), {}, "option 1 has no tokens"),
        (BOS, record("pi", "a", "</s>", "b", "</s>"), {}, "options 1 and 3 have the same tokens"),
        (
            BOS,
            record("abc", "x", "yz"),
            {},
            "4 tokens of prompt and 2 of the longest option exceed the context of 5",
        ),
        (BOS, record("abc", "x"), {"append_eos": True}, "4 tokens of prompt and 2 of the longest option"),
        (BOS, record("abc", "wxyz"), {"truncate": True}, "4 tokens of the longest option leave no room"),
    ],
)
def test_refused(
    make_tokenizer: MakeTokenizer, single: str, bad: Record, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(f"{WHERE}: {message}")) as raised:
        tokenize([record("p", "q"), bad], make_tokenizer(single), 5, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bad", [record("pit", "a"), record("p", "a", "it"), record("p", "a", "b", "it")])
def test_tokens_that_the_model_does_not_have(make_tokenizer: MakeTokenizer, bad: Record) -> None:
    """A tokenizer with added tokens, for one, whose model was not resized."""
    tokenizer = make_tokenizer(BOS)
    (token,) = ids(tokenizer, "it")
    assert tokenize([bad], tokenizer, 9, vocab_size=token + 1) == tokenize([bad], tokenizer, 9)
    message = (
        f"{WHERE}: token {token} ('it') is beyond the model's vocabulary of {token}: pass --tokenizer-path "
        "with the model's own tokenizer, or resize the model's embeddings to the tokenizer"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        tokenize([record("p", "a"), bad], tokenizer, 9, vocab_size=token)


def test_an_eos_that_the_model_does_not_have(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(BARE)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    size = tokenizer.eos_token_id
    assert tokenize([record("p", "a")], tokenizer, 9, vocab_size=size)
    with pytest.raises(
        UserError, match=re.escape(f"token {size} ('<end>') is beyond the model's vocabulary")
    ):
        tokenize([record("p", "a")], tokenizer, 9, append_eos=True, vocab_size=size)


def test_no_eos_to_append(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(UserError, match="--append-eos: this tokenizer has no EOS token"):
        tokenize([record("p", "a")], make_tokenizer(BARE, eos=False), 5, append_eos=True)


def test_many_records_take_few_calls(make_tokenizer: MakeTokenizer) -> None:
    """One call a record would take minutes for a large data set."""
    tokenizer = make_tokenizer(BOS)
    calls = []

    class Counted:
        eos_token_id = EOS

        def __call__(self, text: list[str], **options: bool) -> Mapping[str, list[list[int]]]:
            calls.append(len(text))
            return tokenizer(text, **options)

    records = [record(f"{i} was it, i", "t" if i % 2 else " go", "b") for i in range(2 * CHUNK + 1)]
    examples = tokenize(records, Counted(), 64)
    assert calls == [1, 1, 3 * CHUNK, CHUNK // 2, 3 * CHUNK, CHUNK // 2, 3]
    for i in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK):
        assert examples[i : i + 1] == tokenize(records[i : i + 1], tokenizer, 64)
