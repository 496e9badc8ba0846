from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, EOS = 0, 1
MERGES = [("i", "t"), ("Ġ", "g")]


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """make_tokenizer(single, eos=True): the 256 bytes, and "it" and " g" as tokens of their own.

    single: what a text becomes, as in "</s> $A".
    """

    def make(single: str, eos: bool = True) -> PreTrainedTokenizerFast:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        names = ["<pad>", "</s>", *alphabet, *("".join(merge) for merge in MERGES)]
        tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=MERGES))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<pad>", PAD), ("</s>", EOS)]
        )
        special = {"bos_token": "</s>", "eos_token": "</s>"} if eos else {}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **special)

    return make
