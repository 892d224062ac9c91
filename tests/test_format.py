"""The native code has the style of .clang-format, as the version of the test extra writes it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "linfdist" / "csrc", ROOT / "tests" / "emulator")
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def test_the_native_code_is_formatted():
    clang_format = pytest.importorskip("clang_format")
    files = [path for folder in FOLDERS for path in folder.rglob("*") if path.suffix in SUFFIXES]
    assert {path.suffix for path in files} == SUFFIXES
    program = clang_format.get_executable("clang-format")
    command = [program, "--style=file", "--dry-run", "-Werror", *sorted(files)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, f"Run clang-format -i on these files.\n{result.stderr}"
