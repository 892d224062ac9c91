"""What the machine code of the CUDA kernels does, counted: no GPU is needed, and nothing is timed.

``PYTHONPATH=tests python -m helpers.sass [--json FILE]`` disassembles linfdist.ops._native and
counts, for the hot loop of each kernel, the instructions a pair |x − w|^p costs, by the pipe that
runs them. From that follows a bound: no more pairs a second can come out of this code on an H100,
whatever it waits for. The model knows a clock's issue and the width of each pipe; not memory,
latency or bank conflicts.
"""

import argparse
import functools
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers import disassembly
from helpers.disassembly import hot_loop, opcode

from linfdist.records import environment
from linfdist.records.files import replace_file, sealed_text

CSRC = Path(__file__).resolve().parents[2] / "linfdist" / "csrc"

# One of the four partitions of an H100's multiprocessor [NVIDIA H100 whitepaper; CUDA C++
# Programming Guide, "Throughput of Native Arithmetic Instructions", 9.0]: it issues one instruction
# of 32 lanes a clock. Clocks that a pipe is then busy: 32 lanes over its width. The multiprocessor
# serves one request to shared memory a clock, a quarter for each partition.
CLOCKS = {"issue": 1, "FMA": 1, "ALU": 2, "MUFU": 8, "LDS": 4}
PARTITIONS, LANES = 4 * 132, 32
HERTZ = 1.755e9

PIPES = (
    ("FMA", r"FADD|FMUL|FFMA|IMAD|HFMA2"),
    ("ALU", r"FMNMX|FSETP|FSEL|FCHK|IADD3|VIADD|ISETP|LEA|LOP3|PLOP3|SHF|SEL|MOV|PRMT|"
     r"IMNMX|VIMNMX|IABS"),
    ("MUFU", r"MUFU|I2F|F2I|POPC|FLO"),
    ("LDS", r"LDS|STS"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A hot loop: how to find it, how many pairs an iteration has, and what was meant."""

    title: str
    symbol: str  # in the mangled name
    planes: int = 1  # operands of x
    coefficients: int = 0  # of the backward pass: vectors of g and distance
    taken: int = 0  # how many nested conditions of the loop hold; see Loop.instructions
    ideal: dict[str, float] = field(default_factory=dict)  # instructions a pair by pipe


# before the name of a norm or a term in the mangled name of a kernel of it
TILES, GRADIENTS = "distance_tilesINS0_", "power_gradientsINS0_"

KERNELS = (
    Kernel(title="p = ∞, forward", symbol=TILES + "7MaximumE",
           ideal={"FMA": 1, "ALU": 1}),
    Kernel(title="p = ∞, forward with index", symbol=TILES + "12FirstMaximumI",
           ideal={"FMA": 1, "ALU": 1}),
    Kernel(title="p = 1, forward", symbol=TILES + "8PowerSumILi1E"),
    Kernel(title="p = 2, forward", symbol=TILES + "8PowerSumILi2E"),
    Kernel(title="p = 4, forward", symbol=TILES + "8PowerSumILi4E"),
    Kernel(title="p = 8, forward", symbol=TILES + "8PowerSumILi8E",
           ideal={"FMA": 4}),
    Kernel(title="real p, forward", symbol=TILES + "12RealPowerSumILb0E",
           ideal={"MUFU": 2}),
    Kernel(title="large p, forward, nothing counts",
           symbol=TILES + "12RealPowerSumILb1E"),
    Kernel(title="large p, forward, all counts", taken=1,
           symbol=TILES + "12RealPowerSumILb1E", ideal={"MUFU": 2}),
    Kernel(title="interval", symbol=TILES + "8IntervalE", planes=2),
    Kernel(title="p = 1, both gradients", symbol=GRADIENTS + "9PowerTermILi1E", coefficients=1),
    Kernel(title="p = 2, both gradients", symbol=GRADIENTS + "9PowerTermILi2E", coefficients=1),
    Kernel(title="p = 4, both gradients", symbol=GRADIENTS + "9PowerTermILi4E", coefficients=1),
    Kernel(title="p = 8, both gradients", symbol=GRADIENTS + "9PowerTermILi8E", coefficients=1),
    Kernel(title="real p, both gradients", symbol=GRADIENTS + "8RealTermILb0E",
           coefficients=2, ideal={"MUFU": 2}),
    Kernel(title="large p, both gradients, nothing counts", symbol=GRADIENTS + "8RealTermILb1E",
           coefficients=2),
    Kernel(title="large p, both gradients, all counts", symbol=GRADIENTS + "8RealTermILb1E",
           coefficients=2, taken=1, ideal={"MUFU": 2}),
    Kernel(title="LogSumExp, forward, none counts", symbol=TILES + "9LogSumExpE"),
    Kernel(title="LogSumExp, forward, one counts", taken=1,
           symbol=TILES + "9LogSumExpE", ideal={"MUFU": 1}),
    Kernel(title="LogSumExp, forward, two and a new top", taken=3,
           symbol=TILES + "9LogSumExpE", ideal={"MUFU": 2}),
    Kernel(title="LogSumExp, both gradients, none counts",
           symbol=GRADIENTS + "13LogSumExpTermE", coefficients=2),
    Kernel(title="LogSumExp, both gradients, one counts", symbol=GRADIENTS + "13LogSumExpTermE",
           coefficients=2, taken=1, ideal={"MUFU": 1}),
    Kernel(title="LogSumExp, both gradients, two count", symbol=GRADIENTS + "13LogSumExpTermE",
           coefficients=2, taken=2, ideal={"MUFU": 2}),
    Kernel(title="LogSumExp, tops for the backward pass",
           symbol=TILES + "18ConditionalMaximumE", ideal={"FMA": 1, "ALU": 1}),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Count:
    """What one kernel's code for one architecture does; per pair, in its hot loop."""

    title: str
    architecture: str
    registers: int
    stack_bytes: int
    spills: int  # LDL and STL, in the whole kernel
    async_copies: int  # LDGSTS, in the whole kernel
    wide_loads: int  # LDS.128 in the hot loop
    pairs: int  # of one thread in one iteration
    instructions: dict[str, float]  # by opcode
    pipes: dict[str, float]  # by pipe; "issue" is all of them
    bound: float | None  # pairs a second, an H100 at most; None for code that no H100 runs
    ideal_bound: float | None  # the same of the instructions that were meant


@functools.cache
def counts() -> tuple[Count, ...]:
    """Every kernel of ``KERNELS`` for every architecture of the module."""
    usage = disassembly.usage()
    names = [_name(kernel, {name for _, name in usage}) for kernel in KERNELS]
    code = disassembly.code(sorted(set(names)))
    return tuple(
        _count(kernel, architecture, name, usage[architecture, name], code[architecture, name])
        for architecture in sorted({architecture for architecture, _ in code})
        for kernel, name in zip(KERNELS, names, strict=True)
    )


def _name(kernel: Kernel, names: set[str]) -> str:
    found = [name for name in names if kernel.symbol in name]
    if len(found) != 1:
        raise RuntimeError(
            f"{kernel.title}: {kernel.symbol} is in the names of {found}, not of one"
        )
    return found[0]


def _constant(name: str) -> int:
    """``constexpr int … NAME = 8`` of the kernels' sources."""
    found = {
        int(value)
        for path in (CSRC / "cuda").iterdir()
        for value in re.findall(rf"constexpr int [^;]*\b{name} = (\d+)", path.read_text())
    }
    (value,) = found
    return value


def _pairs_and_loads(kernel: Kernel) -> tuple[int, int]:
    """Of one pass of a thread over its tile: pairs, and 16-byte loads of their operands."""
    if kernel.coefficients:  # a weight of its own, coefficients for four samples at a time
        samples = _constant("kSamples")
        return samples, kernel.coefficients * samples // 4
    rows, columns = _constant("kRows"), _constant("kColumns")
    return rows * columns * 4, kernel.planes * rows + columns


def _count(kernel: Kernel, architecture: str, name: str, usage: dict, lines: list) -> Count:
    loop = hot_loop(lines)
    pairs, loads = _pairs_and_loads(kernel)
    times, rest = divmod(loop.wide_loads(), loads)  # as often as the compiler unrolled the pass
    if rest or not times:
        raise RuntimeError(
            f"{name}: the hot loop has {loop.wide_loads()} LDS.128, no multiple of {loads}"
        )
    pairs *= times
    opcodes = Counter(opcode(text) for text in loop.instructions(kernel.taken))
    everything = Counter(opcode(text) for _, text in lines)
    per_pair = {name: number / pairs for name, number in opcodes.most_common()}
    pipes = {
        pipe: sum(n for name, n in per_pair.items() if re.fullmatch(pattern, name))
        for pipe, pattern in PIPES
    }
    pipes["issue"] = sum(per_pair.values())
    return Count(
        title=kernel.title,
        architecture=architecture,
        registers=usage["REG"],
        stack_bytes=usage["STACK"] + usage["LOCAL"],
        spills=everything["LDL"] + everything["STL"],
        async_copies=everything["LDGSTS"],
        wide_loads=loop.wide_loads(),
        pairs=pairs,
        instructions=per_pair,
        pipes=pipes,
        bound=pairs_per_second(pipes) if architecture == "sm_90" else None,
        ideal_bound=pairs_per_second(kernel.ideal) if kernel.ideal else None,
    )


def pairs_per_second(pipes: dict[str, float]) -> float:
    """What an H100 can do at most where a pair takes these instructions."""
    clocks = max(CLOCKS[pipe] * number for pipe, number in pipes.items())
    return PARTITIONS * LANES * HERTZ / clocks


def report() -> dict:
    """All of it, ready for JSON."""
    described = environment.describe("cpu")
    return {
        "counted": "instructions in the machine code; no GPU ran",
        "commit": described["commit"],
        "dirty": described["dirty"],
        "nvcc": disassembly.compiler(),
        "model": {"clocks": CLOCKS, "partitions": PARTITIONS, "hertz": HERTZ, "device": "H100"},
        "kernels": [asdict(count) for count in counts()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write all counts to this file")
    arguments = parser.parse_args()
    if reason := disassembly.missing():
        parser.error(reason)
    print(f"{'':39} {'':6} regs stack spills │ a pair: FMA   ALU  MUFU   LDS all │ 10¹² pairs/s ≤")
    for count in counts():
        pipes = " ".join(f"{count.pipes[pipe]:5.2f}" for pipe in (*dict(PIPES), "issue"))
        ideal = f" (meant {count.ideal_bound / 1e12:.1f})" if count.ideal_bound else ""
        bound = f"{count.bound / 1e12:.2f}{ideal}" if count.bound else "–"
        print(
            f"{count.title:39} {count.architecture:6} {count.registers:4} {count.stack_bytes:5} "
            f"{count.spills:6} │ {pipes} │ {bound}"
        )
    if arguments.json:
        replace_file(arguments.json, sealed_text(report()))


if __name__ == "__main__":
    main()
