"""SGLang finds the plugin and it says what it found; SGLang itself would only log a failure."""

import logging
from importlib.metadata import entry_points

import pytest

from sglang_mezo_plugin import plugin
from sglang_mezo_plugin.patching.diffs import PatchError


def test_entry_point() -> None:
    (found,) = entry_points(group="sglang.srt.plugins", name="mezo")
    assert found.load() is plugin.register


def test_loaded_by_sglang(caplog: pytest.LogCaptureFixture) -> None:
    from sglang.srt import plugins

    plugins._plugins_loaded = False
    with caplog.at_level(logging.INFO):
        plugins.load_plugins()
    assert "sglang-mezo: SGLang is patched" in caplog.messages


@pytest.mark.parametrize("found", ["stock", PatchError("half applied")])
def test_warns_of_an_engine_that_is_not_patched(
    found: str | PatchError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def state(target: object) -> str:
        if isinstance(found, PatchError):
            raise found
        return found

    monkeypatch.setattr(plugin, "state", state)
    plugin.register()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ("not patched" if found == "stock" else "half applied") in record.message
