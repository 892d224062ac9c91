"""The machine code of the built module: cuobjdump's text as instructions, loops and resources."""

import os
import re
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from linfdist.ops import native


def missing() -> str | None:
    """Why nothing can be counted here; None where it can."""
    if native.module() is None or not native.module().cuda_architectures:
        return "the module was built without nvcc: it has no CUDA code"
    for name in ("cuobjdump", "nvdisasm"):
        if _tool(name) is None:
            return f"{name} is not installed: pip install nvidia-cuda-{name}, on Linux x86_64"
    return None


def _tool(name: str) -> Path | None:
    """A program of the wheel nvidia-cuda-NAME, which puts none on PATH."""
    try:
        files = metadata.files(f"nvidia-cuda-{name}")
    except metadata.PackageNotFoundError:
        return None
    return next((file.locate() for file in files or () if file.name == name), None)


def _cuobjdump(*arguments: str, folder: str | None = None) -> str:
    # It calls nvdisasm by name.
    path = os.pathsep.join((str(_tool("nvdisasm").parent), os.environ.get("PATH", "")))
    command = [str(_tool("cuobjdump")), *arguments, native.module().__file__]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def usage() -> dict[tuple[str, str], dict[str, int]]:
    """Resources by architecture and mangled name."""
    found, architecture, name = {}, "", ""
    for line in _cuobjdump("-res-usage").splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r" Function (\S+):", line):
            name = match[1]
        elif "REG:" in line and name:
            values = re.findall(r"(\w+):(\d+)", line)
            found[architecture, name] = {key: int(value) for key, value in values}
    return found


def code(names: list[str]) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """Addresses and instructions by architecture and mangled name."""
    found, lines, architecture = {}, [], ""
    for line in _cuobjdump("-sass", "-fun", ",".join(names)).splitlines():
        if match := re.match(r"\s+code for (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s+Function : (\S+)", line):
            lines = found[architecture, match[1]] = []
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            lines.append((int(match[1], 16), match[2]))
    return found


class Loop:
    """From the target of a backward branch to that branch."""

    def __init__(self, lines: list[tuple[int, str]], begin: int, end: int):
        self.lines = [line for line in lines if begin <= line[0] <= end]

    def instructions(self, taken: int) -> list[str]:
        """Those that run where ``taken`` nested conditions hold, and none of those inside.

        A condition is a predicated forward branch within the loop: it jumps over what it guards.
        """
        last = self.lines[-1][0]
        jumps = [(at, _target(text)) for at, text in self.lines if text.startswith("@")]
        guarded = [range(at + 1, to) for at, to in jumps if to is not None and at < to <= last]
        return [text for at, text in self.lines if sum(at in region for region in guarded) <= taken]

    def wide_loads(self) -> int:
        return sum("LDS.128" in text for _, text in self.lines)


def _target(text: str) -> int | None:
    match = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
    return int(match[1], 16) if match else None


def hot_loop(lines: list[tuple[int, str]]) -> Loop:
    """The innermost loop with most 16-byte loads of shared memory: what the pairs come from."""
    loops = [
        Loop(lines, target, at)
        for at, text in lines
        if (target := _target(text)) is not None and target < at
    ]
    return max(loops, key=lambda loop: (loop.wide_loads(), -len(loop.lines)))


def opcode(text: str) -> str:
    return re.sub(r"^@!?\w+\s+", "", text).split()[0].split(".")[0]


def compiler() -> str:
    """The release of nvcc that wrote the code, as it stands in it."""
    with tempfile.TemporaryDirectory() as folder:
        _cuobjdump("-xelf", "all", folder=folder)
        code = next(Path(folder).glob("*.cubin")).read_bytes()
    return re.search(rb"Cuda compilation tools, (release [\w., ]+)", code)[1].decode()
