"""Runs the tests that the patches bring, in this process: importing SGLang is what takes long."""

import importlib.util
import tempfile
import unittest
from pathlib import Path

from registered import brought_tests, write_tests


def _test_cases(file: Path) -> dict[str, type[unittest.TestCase]]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        f"{file.stem}_{name}": case
        for name, case in vars(module).items()
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == file.stem
    }


with tempfile.TemporaryDirectory() as folder:
    for file in write_tests(Path(folder), brought_tests()):
        globals().update(_test_cases(file))
