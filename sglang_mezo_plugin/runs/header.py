"""What makes a run what it is: the header of its journal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sglang_mezo_plugin.models.checkpoint import weight_files
from sglang_mezo_plugin.models.peft_files import CONFIG, WEIGHTS
from sglang_mezo_plugin.runs.journal import Header


def make_header(
    config: Mapping[str, Any], checkpoint: Path, lora_path: Path | None, data: Mapping[str, str]
) -> Header:
    """Return the header of a run.

    config: the options that decide what is computed. lora_path: of the adapter that it begins with, if any.
    data: digests of what is learnt from. SHA-256 of all weights takes about a second a gigabyte and thread.
    """
    return Header(dict(config), file_hashes(hashed_files(checkpoint, lora_path)), dict(data))


def hashed_files(checkpoint: Path, lora_path: Path | None) -> list[Path]:
    """Return the files that a run begins with: the base model's, and the adapter's if there is one."""
    files = [checkpoint / "config.json", *weight_files(checkpoint)]
    return files + [lora_path / name for name in (CONFIG, WEIGHTS)] if lora_path else files


def file_hashes(files: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by name, several at a time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip([file.name for file in files], pool.map(_sha256, files), strict=True))


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
