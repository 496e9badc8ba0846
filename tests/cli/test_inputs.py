"""The longest example that a command takes: the model's positions, or --context-length."""

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest

from sglang_mezo_plugin.cli.inputs import digest, load_examples
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Record


class Characters:
    """A tokenizer whose ids are those of Unicode."""

    eos_token_id = None
    chat_template = None

    def __call__(self, text: Sequence[str], **options: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(character) for character in one] for one in text]}

    def convert_ids_to_tokens(self, ids: int) -> str:
        return chr(ids)


def load(folder: Path, config: dict[str, object], asked: int | None, prompt: str = "abc") -> list[Example]:
    (folder / "config.json").write_text(json.dumps(config))
    args = Namespace(context_length=asked, truncate_prompts=False, append_eos=False)
    return load_examples(args, [Record(prompt, ("d",), 0, "here")], Characters(), folder)


BLOOM = {"model_type": "bloom", "vocab_size": 128}
OPT = {"model_type": "opt", "vocab_size": 128, "max_position_embeddings": 4}


@pytest.mark.parametrize(("config", "asked"), [(OPT, None), (OPT, 4), (BLOOM, 4), (BLOOM, 2048)])
def test_context_length(tmp_path: Path, config: dict[str, object], asked: int | None) -> None:
    assert load(tmp_path, config, asked) == [Example((97, 98, 99), ((100,),), 0)]


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        (BLOOM, None, "config.json does not say how many positions the model knows: pass --context-length"),
        (BLOOM, 3, "here: 3 tokens of prompt and 1 of the longest option exceed the context of 3"),
        (BLOOM, 0, "--context-length must be from 1 to SGLang's 2048 for a model that does not say, not 0"),
        (
            BLOOM,
            2049,
            "--context-length must be from 1 to SGLang's 2048 for a model that does not say, not 2",
        ),
        (OPT, 5, "--context-length must be from 1 to the model's 4, not 5"),
    ],
)
def test_refused_lengths(tmp_path: Path, config: dict[str, object], asked: int | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(tmp_path, config, asked)


def test_a_token_beyond_the_vocabulary_of_config_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"here: token 233 \('é'\) is beyond the model's vocabulary of 128"):
        load(tmp_path, OPT, None, "né")


def test_digest() -> None:
    """The SHA-256 of their text in Python, which journals of earlier versions hold."""
    examples = [Example((1, 2), ((3,), (4, 5)), 1), Example((6,), ((7,),), 0)]
    assert digest(examples) == "02a20feb1a33a648fd24a27f268be00c91e13ed4e52f16575e017873532abaf6"
