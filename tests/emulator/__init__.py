"""The CUDA kernels on the CPU: linfdist/csrc/cuda/*.cu compiled as C++ and run thread by thread.

``build`` compiles the kernels as they stand, with cuda_runtime.h and cuda/device.cuh of this folder
in place of CUDA's and theirs; block.h says what that finds that a GPU would only sometimes show.
``Emulator`` calls them on CPU tensors; ``build_program`` makes a program under a sanitizer instead.
"""

import ctypes
import fcntl
import math
import os
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nanobind
import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "linfdist" / "csrc"
OPTIONS = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-D__CUDACC__")
MODULE_UNITS = (
    "bindings/module.cpp",
    "bindings/cuda.cpp",
    "cpu/dispatch.cpp",
    "cpu/kernels.cpp",
    "cpu/float_mode.cpp",
)
MARGIN = 256  # bytes of poison on both sides of every array


def compiler() -> str | None:
    """A C++20 compiler: $CXX or the usual names; None where there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    return None


def build(folder: Path) -> Path:
    """The kernels of csrc and entry.cpp as a shared library in ``folder``."""
    return _build(folder, [*_csrc(), HERE / "entry.cpp"], ["-shared"])


def built_once(tmp_path_factory) -> Path:
    """``build``'s library, compiled once in a session: the first process of pytest-xdist builds."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder = session / "emulator"
    folder.mkdir(exist_ok=True)
    built = folder / "emulated"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return built if built.exists() else build(folder)


def build_planted(folder: Path) -> Path:
    """The kernels of planted.cu, which have a bug each, as a shared library in ``folder``."""
    return _build(folder, [HERE / "planted.cu"], ["-shared"])


def build_program(folder: Path, sanitizer: str, *, planted: bool = False) -> Path:
    """check_memory.cpp with the kernels of csrc, or planted.cu, under "address" or "thread"."""
    flags = ["-g", f"-fsanitize={sanitizer}", f"-DEMULATOR_{sanitizer[0].upper()}SAN"]
    checked = [HERE / "planted.cu"] if planted else [*_csrc(), HERE / "check_memory.cpp"]
    return _build(folder, checked, flags)


def build_module(folder: Path, sanitizer: str | None = None) -> Path:
    """linfdist.ops._native, under a sanitizer or without: its CPU kernels, and the emulated ones in
    place of those of a GPU, behind the bindings as they stand.

    A CUDA array is then memory of the CPU that says it lay on a GPU.
    """
    emulated, compiled = folder / "emulated_kernels", folder / "compiled"
    emulated.mkdir()
    compiled.mkdir()
    flags = ["-g", f"-fsanitize={sanitizer}"] if sanitizer else []
    own = [*flags, f"-DEMULATOR_{sanitizer[0].upper()}SAN"] if sanitizer else []
    objects = _compile(emulated, _csrc(), own)
    source = Path(nanobind.source_dir())
    units = [CSRC / name for name in MODULE_UNITS] + [source / "nb_combined.cpp"]
    includes = [
        nanobind.include_dir(),
        str(source.parent / "ext" / "robin_map" / "include"),
        sysconfig.get_path("include"),
        str(CSRC),
    ]
    options = ["-DLINFDIST_ISA=baseline", '-DLINFDIST_CUDA="emulated"', "-fno-strict-aliasing"]
    options += ["-std=c++20", "-O1", "-fPIC", "-fopenmp", *(f"-I{path}" for path in includes)]

    def compile_one(unit: Path) -> str:
        out = str(compiled / f"{unit.parent.name}_{unit.stem}.o")
        _run([compiler(), *options, *flags, "-c", str(unit), "-o", out])
        return out

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects += pool.map(compile_one, units)
    built = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    _run([compiler(), "-shared", "-fopenmp", *flags, *objects, "-o", str(built), "-ldl"])
    return built


def _csrc() -> list[Path]:
    return sorted((CSRC / "cuda").glob("*.cu"))


def _build(folder: Path, sources: list[Path], flags: list[str]) -> Path:
    objects = _compile(folder, sources, flags)
    built = folder / "emulated"
    _run([compiler(), *flags, *objects, "-o", str(built), "-ldl"])
    return built


def _compile(folder: Path, sources: list[Path], flags: list[str]) -> list[str]:
    def compile_one(unit: Path) -> str:
        # The scheduler is no part of the program that a sanitizer watches.
        own = [flag for flag in flags if unit.stem != "block" or "fsanitize" not in flag]
        out = str(folder / f"{unit.stem}.o")
        # The substitutes of this folder come before what they stand in for.
        paths = [f"-I{HERE}", f"-I{CSRC}"]
        _run([compiler(), *OPTIONS, *own, *paths, "-x", "c++", "-c", str(unit), "-o", out])
        return out

    units = [*sources, HERE / "block.cpp"]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(compile_one, units))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


class Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "out_features", "in_features")]


class _Library:
    """A built library and how it runs: in which order, with what for poison."""

    def __init__(self, path: Path):
        self._path, self._library = path, ctypes.CDLL(str(path))
        self.configure()

    def configure(
        self, *, order="forward", poison=0xFF, mufu_error=False, multiprocessors=132
    ) -> None:
        """``order`` of the threads of a block, and of the blocks: "forward" or "reverse"."""
        reverse = int(order == "reverse")
        self._library.emulator_configure(multiprocessors, reverse, reverse, poison, int(mufu_error))

    @contextmanager
    def configured(self, **settings):
        self.configure(**settings)
        try:
            yield self
        finally:
            self.configure()

    def _call(self, name: str, *arguments) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p
        error = function(*(_as_c(argument) for argument in arguments))
        if error:
            raise RuntimeError(named(error.decode(), self._path))


class Planted(_Library):
    """The kernels of planted.cu."""

    def run(self, name: str, values: np.ndarray, *, right: bool, order: str) -> np.ndarray:
        """What 64 values become."""
        taken, given = (_Array(values.shape, torch.float32, 0) for _ in range(2))
        taken.tensor.copy_(torch.from_numpy(values))
        with self.configured(order=order):
            self._call("run_planted", name.encode(), int(right), taken, given)
        given.check()
        return given.tensor.numpy()


class Emulator(_Library):
    """The kernels of csrc, on CPU tensors."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.offset = 0  # elements between a 16-byte boundary and the first element of every array

    def forward(self, x: Tensor, weight: Tensor, p: float = math.inf) -> Tensor:
        distance, _ = self._forward(x, weight, p, with_index=False)
        return distance

    def forward_with_index(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._forward(x, weight, math.inf, with_index=True)

    def _forward(self, x, weight, p, with_index):
        shape = (x.shape[0], weight.shape[0])
        with self._arrays(x, weight) as (arrays, empty):
            distance = empty(shape, x.dtype)
            index = empty(shape, torch.int32) if with_index else None
            self._call(_typed("forward", x), *arrays, distance, index, self._sizes(x, weight), p)
        return distance.tensor, index and index.tensor

    def backward(self, grad, x, weight, distance=None, index=None, p=math.inf):
        """Gradients to x and weight; ``distance`` at finite p, ``index`` at p = ∞."""
        sizes = self._sizes(x, weight)
        needed = self._library.emulated_backward_workspace
        needed.restype, needed.argtypes = ctypes.c_int64, [Sizes, ctypes.c_double, ctypes.c_int64]
        saved = index if distance is None else distance
        with self._arrays(grad, x, weight, saved) as ((*arrays, saved), empty):
            to_x, to_weight = empty(x.shape, x.dtype), empty(weight.shape, x.dtype)
            bytes_needed = needed(sizes, p, x.element_size())
            workspace = empty((bytes_needed,), torch.uint8)
            saved = (saved, None) if index is None else (None, saved)
            results = (to_x, to_weight, workspace)
            self._call(_typed("backward", x), *arrays, *saved, *results, sizes, p)
        return to_x.tensor, to_weight.tensor

    def interval(self, lower, upper, weight):
        shape = (lower.shape[0], weight.shape[0])
        with self._arrays(lower, upper, weight) as (arrays, empty):
            low, high = empty(shape, lower.dtype), empty(shape, lower.dtype)
            self._call(_typed("interval", lower), *arrays, low, high, self._sizes(lower, weight))
        return low.tensor, high.tensor

    def lse_forward(self, x, weight, t, *, fits=0):
        """Distance and total; what memory held before where ``fits`` is set."""
        shape, flag = (x.shape[0], weight.shape[0]), torch.tensor([[fits]], dtype=torch.int32)
        with self._arrays(x, weight, flag) as ((*arrays, flag), empty):
            results = empty(shape, x.dtype), empty(shape, x.dtype)
            sizes = self._sizes(x, weight)
            self._call(_typed("lse_forward", x), *arrays, *results, flag, sizes, float(t))
        return tuple(array.tensor for array in results)

    def lse_backward(self, grad, x, weight, total, t, *, fits=0):
        """Gradients to x and weight; what memory held before where ``fits`` is set."""
        sizes, flag = self._sizes(x, weight), torch.tensor([[fits]], dtype=torch.int32)
        needed = self._library.emulated_lse_workspace
        needed.restype, needed.argtypes = ctypes.c_int64, [Sizes, ctypes.c_int64]
        with self._arrays(grad, x, weight, total, flag) as ((*arrays, flag), empty):
            results = empty(x.shape, x.dtype), empty(weight.shape, x.dtype)
            workspace = empty((needed(sizes, x.element_size()),), torch.uint8)
            if fits:
                workspace.tensor.fill_(0x3F)  # no NaN, whose sums would be what results hold
            name = _typed("lse_backward", x)
            self._call(name, *arrays, *results, workspace, flag, sizes, float(t))
        assert not fits or (workspace.tensor == 0x3F).all(), "a kernel ran all the same"
        return tuple(array.tensor for array in results)

    def lse_factors(self, rows, centre, t, *, least, dtype=None):
        """Factors, of ``dtype`` or that of the rows, and the reach."""
        count, length = rows.shape
        with self._arrays(rows, centre) as (arrays, empty):
            factors = empty((count, 2 * length), dtype or rows.dtype)
            reach = empty((count, 1), rows.dtype)
            sizes = map(ctypes.c_int64, (count, length))
            name = _typed("lse_factors", factors.tensor)
            self._call(name, *arrays, factors, reach, *sizes, float(t), float(least))
        return factors.tensor, reach.tensor

    def lse_combine(self, products, factors):
        count, length = products.shape[0], products.shape[1] // 2
        with self._arrays(products, factors) as (arrays, empty):
            grad = empty((count, length), products.dtype)
            sizes = map(ctypes.c_int64, (count, length))
            self._call(_typed("lse_combine", factors), *arrays, grad, *sizes)
        return grad.tensor

    def adamw(self, weight, grad, exp_avg, exp_avg_sq, *, p, rate, lr, betas, eps, steps):
        """Weight and moments after the step."""
        with self._arrays(weight, grad, exp_avg, exp_avg_sq) as (arrays, _):
            rows, length = map(ctypes.c_int64, weight.shape)
            settings = (float(p), rate, lr, *betas, eps, ctypes.c_int64(steps))
            self._call(_typed("adamw", weight), *arrays, rows, length, *settings)
        after, unchanged, *moments = (array.tensor for array in arrays)
        assert torch.equal(unchanged, grad)
        return after, *moments

    @staticmethod
    def _sizes(x, weight) -> Sizes:
        return Sizes(x.shape[0], weight.shape[0], x.shape[1])

    @contextmanager
    def _arrays(self, *tensors):
        """Copies of the tensors amid poison, and a maker of poisoned results; all are looked at."""
        made = []

        def empty(shape, dtype):
            offset = 0 if dtype == torch.uint8 else self.offset  # a workspace is aligned
            made.append(_Array(shape, dtype, offset))
            return made[-1]

        for tensor in tensors:
            empty(tensor.shape, tensor.dtype).tensor.copy_(tensor)
        yield list(made), empty
        for array in made:
            array.check()


def named(message: str, binary: Path) -> str:
    """``kernel at +0x1234`` of a message by the kernel's name, where nm is installed."""
    address = re.search(r"kernel at \+0x([0-9a-f]+)", message)
    if not address or not shutil.which("nm"):
        return message
    command = ["nm", "-C", str(binary)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in symbols.splitlines():
        at, _, name = line.split(maxsplit=2) if line[:1] == "0" else ("0", "", "")
        if int(at, 16) == int(address[1], 16):
            return message.replace(address[0], name.removeprefix("void "))
    return message


def _typed(name: str, tensor: Tensor) -> str:
    return f"emulated_{name}_{str(tensor.dtype).removeprefix('torch.')}"


def _as_c(argument):
    if isinstance(argument, _Array):
        return ctypes.c_void_p(argument.tensor.data_ptr())
    return ctypes.c_double(argument) if isinstance(argument, float) else argument


class _Array:
    """A tensor whose memory begins ``offset`` elements past a 16-byte boundary, amid poison."""

    def __init__(self, shape, dtype: torch.dtype, offset: int):
        size = torch.Size(shape).numel() * dtype.itemsize
        self._bytes = np.full(size + 2 * MARGIN + 16, 0xFF, np.uint8)
        self._begin = MARGIN + -self._bytes.ctypes.data % 16 + offset * dtype.itemsize
        self._end = self._begin + size
        memory = torch.from_numpy(self._bytes)[self._begin : self._end]
        self.tensor = memory.view(dtype).view(shape)

    def check(self) -> None:
        around = np.concatenate((self._bytes[: self._begin], self._bytes[self._end :]))
        if (around != 0xFF).any():
            raise RuntimeError("a kernel wrote before or past the end of an array")
