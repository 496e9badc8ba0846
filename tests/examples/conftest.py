"""The example's model and reviews, made by its own command from wheels that are kept in .cache/."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SENTIMENT = Path(__file__).resolve().parents[2] / "examples" / "sentiment"
sys.path.extend([str(SENTIMENT), str(SENTIMENT.with_name("countdown"))])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `prepare.py --output-dir` makes: made anew each session, since its code may have changed."""
    import prepare

    folder = tmp_path_factory.mktemp("prepared")
    prepare.main(["--output-dir", str(folder)])
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, which pytest would keep for three sessions


@pytest.fixture(scope="session")
def smollm2_path(prepared: Path) -> Path:
    """SmolLM2-135M-Instruct in fp32: a Hugging Face folder."""
    return prepared / "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def rotten_tomatoes(prepared: Path) -> tuple[Path, Path]:
    """Paths of train.jsonl and eval.jsonl, rows {"text", "label"}; test.jsonl lies beside them."""
    return prepared / "rotten_tomatoes" / "train.jsonl", prepared / "rotten_tomatoes" / "eval.jsonl"
