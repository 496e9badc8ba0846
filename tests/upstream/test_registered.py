"""Runs the tests that the patches bring, in this process: importing SGLang is what takes long."""

import atexit
import importlib
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import pytest
from registered import brought_tests, write_tests

# What starts servers, ranks, or a process of its own, and what goes through all models or modules there are.
LONG = ("LoRAServer", "TP2", "WithoutGPU", "test_tensor_parallel", "test_logprobs_match", "subset")


def _test_cases(file: Path) -> dict[str, type[unittest.TestCase]]:
    sys.path.append(str(file.parent))  # also for the processes that a test starts
    module = importlib.import_module(file.stem)
    found = {
        f"{file.stem}_{name}": case
        for name, case in vars(module).items()
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == file.stem
    }
    for case in found.values():
        for part in (case, *vars(case).values()):
            if any(name in getattr(part, "__name__", "") for name in LONG):
                pytest.mark.long(part)
    return found


folder = tempfile.mkdtemp(prefix="registered-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
for file in write_tests(Path(folder), brought_tests()):
    globals().update(_test_cases(file))
