"""Names of Hugging Face data sets, with a stand-in for the library's loader, and without a network."""

import re
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.generic import generic
from sglang_mezo_plugin.tasks.hub import hub_rows
from sglang_mezo_plugin.tasks.records import read_records

ROWS = [{"prompt": "p", "completion": c} for c in "abc"]
Request = tuple[str, str | None, str]


class Hub:
    """datasets.load_dataset with some data sets, or with errors in their place, and what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **found: list[dict[str, str]] | Exception) -> None:
        self.found = found
        self.asked: list[Request] = []
        monkeypatch.setattr(datasets, "load_dataset", self.load)

    def load(self, path: str, name: str | None, split: str) -> Any:
        self.asked.append((path, name, split))
        key = path if name is None else f"{path} {name}"
        answer = self.found.get(key, DatasetNotFoundError(f"Dataset '{path}' doesn't exist"))
        if isinstance(answer, Exception):
            raise answer
        return datasets.Dataset.from_list(answer)


@pytest.mark.parametrize(
    ("source", "found", "asked"),
    [
        ("glue", "glue", [("glue", None, "train")]),
        ("glue:test[:10%]", "glue", [("glue", None, "test[:10%]")]),
        ("nyu-mll/glue:test", "nyu-mll/glue", [("nyu-mll/glue", None, "test")]),
        ("glue/sst2:dev", "glue sst2", [("glue/sst2", None, "dev"), ("glue", "sst2", "dev")]),
        ("nyu-mll/glue/sst2", "nyu-mll/glue sst2", [("nyu-mll/glue", "sst2", "train")]),
    ],
)
def test_names(monkeypatch: pytest.MonkeyPatch, source: str, found: str, asked: list[Request]) -> None:
    hub = Hub(monkeypatch, **{found: ROWS})
    records = read_records(source, generic, 2)
    assert hub.asked == asked
    assert [(record.options, record.where) for record in records] == [
        (("a",), f"{source} row 0"),
        (("b",), f"{source} row 1"),
    ]


def test_a_cached_data_set_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, "glue/sst2" is not reached as a name, but may be found as a name and a configuration."""
    Hub(monkeypatch, **{"glue/sst2": ConnectionError("Couldn't reach it"), "glue sst2": ROWS})
    assert len(read_records("glue/sst2", generic, None)) == 3


def test_a_data_set_that_fails_is_not_read_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, **{"own/glue": ValueError("Unknown split"), "own glue": ROWS})
    with pytest.raises(UserError, match="Unknown split"):
        hub_rows("own/glue:dev")
    assert hub.asked == [("own/glue", None, "dev")]


def cause(error: Exception, reason: Exception) -> Exception:
    error.__cause__ = reason
    return error


@pytest.mark.parametrize(
    ("source", "found", "reason"),
    [
        ("glue", {}, "Dataset 'glue' doesn't exist"),
        ("own/glue", {}, "Dataset 'own/glue' doesn't exist"),
        (
            "own/glue:dev",
            {"own/glue": ValueError('Unknown split "dev".\nTake one')},
            'Unknown split "dev". Take one',
        ),
        ("glue/sst2", {"glue sst2": ValueError("No such split")}, "No such split"),
        ("glue/sst2", {"glue/sst2": ConnectionError("Couldn't reach it")}, "Couldn't reach it"),
        ("glue", {"glue": RuntimeError("Dataset scripts are no longer supported")}, "Dataset scripts are no"),
        ("glue", {"glue": cause(DatasetGenerationError("An error"), ValueError("Bad row"))}, "Bad row"),
    ],
)
def test_refused(
    monkeypatch: pytest.MonkeyPatch, source: str, found: dict[str, Exception], reason: str
) -> None:
    Hub(monkeypatch, **found)
    with pytest.raises(
        UserError, match=re.escape(f"{source}: `datasets` cannot load it ({reason}")
    ) as raised:
        hub_rows(source)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("check its name, configuration and split, and the network")


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="own/unheard-of: `datasets` cannot load it \\(Couldn't reach 'own/unheard"
    ):
        read_records("own/unheard-of", generic, None)


@pytest.mark.parametrize("source", ["", ":train", "a//b", "a/b/c/d", "glue/", "/glue", "two words"])
def test_no_data_set_has_such_a_name(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    hub = Hub(monkeypatch)
    with pytest.raises(UserError):
        read_records(source, generic, None)
    assert hub.asked == []
