"""The figures in benchmarks/README.md are those of benchmarks/results."""

import json
import re
from pathlib import Path

import pytest
import tables

RESULTS = sorted((tables.HERE / "results").glob("*.json"))


def test_the_readme_has_the_tables_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    tables.main()
    printed = capsys.readouterr().out
    assert printed.count("\n| ") > 30
    for path in RESULTS:
        assert f"| {path.stem} |" in printed


def test_a_readme_with_another_figure_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tables.in_readme()
    monkeypatch.setattr(tables, "in_readme", lambda: readme.replace("opt-66b | full", "opt-66b | lora"))
    with pytest.raises(SystemExit) as ended:
        tables.main()
    assert ended.value.code == 1
    assert "benchmarks/README.md has other tables" in capsys.readouterr().err


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    report = json.loads(path.read_text())
    assert re.fullmatch("[0-9a-f]{40}", report["commit"])
    assert report["machine"]["gpu"] == "NVIDIA H200" and report["stack"]["torch"] and report["date"]
    assert report["command"].startswith("python benchmarks/")
