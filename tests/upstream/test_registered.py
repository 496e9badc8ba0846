"""Runs the tests that the patches bring, in this process: importing SGLang is what takes long."""

import atexit
import importlib
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

from registered import brought_tests, write_tests


def _test_cases(file: Path) -> dict[str, type[unittest.TestCase]]:
    sys.path.append(str(file.parent))  # also for the processes that a test starts
    module = importlib.import_module(file.stem)
    return {
        f"{file.stem}_{name}": case
        for name, case in vars(module).items()
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == file.stem
    }


folder = tempfile.mkdtemp(prefix="registered-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
for file in write_tests(Path(folder), brought_tests()):
    globals().update(_test_cases(file))
