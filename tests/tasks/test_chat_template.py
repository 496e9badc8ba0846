"""Chats as token ids: the template's own, prompt and completion apart where its generation prompt ends."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.tasks.in_context import with_demonstrations
from sglang_mezo_plugin.tasks.prompts import with_template
from sglang_mezo_plugin.tasks.tokenize import CHUNK, tokenize

TURNS = (
    "{{ '</s>' }}{% for m in messages %}"
    "{% if m.content == 'bad' %}{{ raise_exception('no such\nturn') }}{% endif %}"
    "{{ m.role[0] + ':' + m.content + '</s>\n' }}{% endfor %}"
)
TEMPLATE = TURNS + "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
CHAT = Record(({"role": "user", "content": "hi"},), ("it",), 0, "d.jsonl line 3")
PROMPT, COMPLETION = "</s>u:hi</s>\na:", "it</s>\n"


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    """It puts BOS before a text, as the template does itself."""
    tokenizer = make_tokenizer("</s> $A")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_what_the_template_adds_is_learnt(tokenizer: PreTrainedTokenizerFast) -> None:
    expected = Example(ids(tokenizer, PROMPT), (ids(tokenizer, COMPLETION),), 0)
    assert tokenize([CHAT], tokenizer, 64) == [expected]
    assert expected.prompt[:1] == (tokenizer.bos_token_id,) and expected.prompt[1] != tokenizer.bos_token_id


def test_chats_among_texts_keep_their_places(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [Record(f"{number}", ("b",), 0) for number in range(CHUNK)]
    mixed = [CHAT, *texts, CHAT, texts[0]]
    (chat,) = tokenize([CHAT], tokenizer, 64)
    plain = tokenize(texts, tokenizer, 64)
    assert tokenize(mixed, tokenizer, 64) == [chat, *plain, chat, plain[0]]


def refused(message: str, tokenizer: PreTrainedTokenizerFast, chat: Record = CHAT, **options: Any) -> None:
    with pytest.raises(UserError, match=re.escape(f"d.jsonl line 3: {message}")) as raised:
        tokenize([Record("p", ("c",), 0), chat], tokenizer, options.pop("context", 64), **options)
    assert "\n" not in str(raised.value)


def test_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    bad = Record((*CHAT.prompt, {"role": "user", "content": "bad"}), ("it",), 0, CHAT.where)
    ok = Record(CHAT.prompt, CHAT.options, 0, "elsewhere")
    with pytest.raises(UserError, match=r"line 3: the chat template refuses these turns \(no such turn"):
        tokenize([ok, bad, ok], tokenizer, 64)
    refused(
        "a chat, which ends as its template ends a turn: leave --append-eos out", tokenizer, append_eos=True
    )
    length = len(ids(tokenizer, PROMPT + COMPLETION))
    assert tokenize([CHAT], tokenizer, length)
    for truncate in (False, True):
        message = f"exceed the context of {length - 1}: shorten or drop this chat"
        prompt, completion = len(ids(tokenizer, PROMPT)), len(ids(tokenizer, COMPLETION))
        refused(
            f"{prompt} tokens of prompt and {completion} of the longest option {message}",
            tokenizer,
            context=length - 1,
            truncate=truncate,
        )


def test_no_template(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    refused("a chat, but this tokenizer has no chat template: pass --tokenizer-path", make_tokenizer("$A"))


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("'a:'", "'a:<think>'"),
        TURNS + "{% if add_generation_prompt %}{{ 'a: ' }}{% endif %}",
    ],
    ids=["other text", "other tokens"],
)
def test_a_prompt_that_is_no_prefix(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    """As text, "a: " begins "a: go"; as tokens it does not, for " g" is one."""
    tokenizer.chat_template = template
    chat = Record(CHAT.prompt, (" go",), 0, CHAT.where)
    refused(
        "the chat template writes the turns before the answer otherwise once it is there", tokenizer, chat
    )


def test_options_for_text_refuse_chats() -> None:
    text = Record("p", ("c",), 0, "here")
    with pytest.raises(UserError, match="line 3: --prompt-template is for prompts that are text"):
        with_template([text, CHAT], "{} It was")
    for records, shown in (([text], [CHAT]), ([CHAT], [text])):
        with pytest.raises(UserError, match="line 3: --num-shots is for prompts that are text"):
            with_demonstrations(records, shown)
    assert with_demonstrations([CHAT], []) == [CHAT]
