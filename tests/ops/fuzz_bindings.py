"""Calls every function of a native module with arguments that do not fit each other.

fuzz_bindings.py MODULE [cuda]: the module's file; "cuda" for its functions on a GPU, emulated on
the CPU, whose arrays are then of the CPU's memory and say they lay on a GPU. A call must end in
ValueError or TypeError, or do its work where nothing was changed. Without torch, so that a
sanitizer sees this module alone; what it finds ends the process.
"""

import ctypes
import importlib.util
import math
import sys

import numpy as np

BATCH, OUT, IN = 3, 4, 5
CPU, CUDA = 1, 2  # DLPack's names of devices
NAN, INF = math.nan, math.inf
T, INT, BYTE = "T", np.int32, np.uint8

X, W, PAIRS = (BATCH, IN), (OUT, IN), (BATCH, OUT)
PAIR = [("x", X, T), ("weight", W, T)]
GRADIENTS = [("grad_x", X, T), ("grad_weight", W, T)]
BAD_P, BAD_T = [0.5, -1.0, NAN, -INF], [0.0, -1.0, NAN]
# Arrays, then numbers with what is refused; a leading "*" is for the GPU alone.
FUNCTIONS = {
    "forward": ([*PAIR, ("distance", PAIRS, T)], [("p", 8.7, BAD_P)]),
    "forward_with_index": ([*PAIR, ("distance", PAIRS, T), ("index", PAIRS, INT)], []),
    "backward": (
        [("grad", PAIRS, T), *PAIR, ("distance", PAIRS, T), *GRADIENTS, ("*workspace", None, BYTE)],
        [("p", 8.7, [*BAD_P, INF])],
    ),
    "backward_with_index": (
        [("grad", PAIRS, T), *PAIR, ("index", PAIRS, INT), *GRADIENTS, ("*workspace", None, BYTE)],
        [],
    ),
    "interval": (
        [
            ("lower", X, T),
            ("upper", X, T),
            ("weight", W, T),
            ("distance_lower", PAIRS, T),
            ("distance_upper", PAIRS, T),
        ],
        [],
    ),
    "lse_forward": (
        [*PAIR, ("distance", PAIRS, T), ("total", PAIRS, T), ("*fits", (1, 1), INT)],
        [("t", 1.0, BAD_T)],
    ),
    "lse_backward": (
        [
            ("grad", PAIRS, T),
            *PAIR,
            ("total", PAIRS, T),
            *GRADIENTS,
            ("*workspace", None, BYTE),
            ("*fits", (1, 1), INT),
        ],
        [("t", 1.0, BAD_T)],
    ),
    "lse_factors": (
        [
            ("rows", X, T),
            ("centre", (1, IN), T),
            ("factors", (BATCH, 2 * IN), T),
            ("reach", (BATCH, 1), T),
        ],
        [("t", 1.0, BAD_T), ("least", -100.0, [-1e9, NAN])],
    ),
    "lse_combine": (
        [("products", (BATCH, 2 * IN), T), ("factors", (BATCH, 2 * IN), T), ("grad", X, T)],
        [],
    ),
    "adamw": (
        [(name, W, T) for name in ("weight", "grad", "exp_avg", "exp_avg_sq")],
        [
            ("p", 8.7, BAD_P),
            ("rate", 0.1, []),
            ("lr", 0.1, []),
            ("beta1", 0.9, []),
            ("beta2", 0.99, []),
            ("eps", 1e-8, []),
            ("steps", 1, [0, -1, -(2**62)]),
        ],
    ),
}


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Array:
    """A NumPy array that says where it lies; the data may begin on any byte."""

    def __init__(self, values, device=CPU, number=0):
        self.values, self.device, self.number = values, device, number
        self.kept = []

    def __dlpack__(self, **_):
        v = self.values
        shape, strides = (
            (ctypes.c_int64 * max(1, v.ndim))(*numbers)
            for numbers in (v.shape, (stride // v.itemsize for stride in v.strides))
        )
        code = {"i": 0, "u": 1, "f": 2}[v.dtype.kind]
        tensor = DLTensor(
            v.ctypes.data,
            (ctypes.c_int32 * 2)(self.device, self.number),
            v.ndim,
            code,
            8 * v.itemsize,
            1,
            shape,
            strides,
        )
        self.kept.append((tensor, shape, strides))
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        return new(ctypes.addressof(tensor), b"dltensor", None)

    def __dlpack_device__(self):
        return (self.device, self.number)


def on_16_bytes(shape, dtype, shift=0):
    """Random values in a block of the heap that ends where the array does."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = np.empty(size + 32, np.uint8)
    begin = -block.ctypes.data % 16 + shift
    values = block[begin : begin + size].view(dtype).reshape(shape)
    values[...] = np.random.default_rng(0).uniform(0, 2, shape)
    return values


def heap(shape, dtype):
    """Random values from the heap: past its end lies what a sanitizer watches."""
    values = np.empty(shape, dtype)
    values[...] = np.random.default_rng(1).uniform(0, 2, shape)
    return values


def changed(values, rng, device):
    """Every array that must not be taken for ``values``, and why."""
    shape, dtype = values.shape, values.dtype
    other = {"f": np.float64 if dtype == np.float32 else np.float32}.get(dtype.kind, np.int64)
    for axis in range(len(shape)):
        for size in (0, shape[axis] - 1, shape[axis] + 1, shape[axis] + 4096):
            if dtype != BYTE or size < shape[0]:
                new = heap((*shape[:axis], max(0, size), *shape[axis + 1 :]), dtype)
                if new.shape != shape:
                    yield f"shape {new.shape}", Array(new, device)
    yield "another dtype", Array(heap(shape, other), device)
    yield "one axis more", Array(heap((1, *shape), dtype), device)
    if len(shape) == 2 and shape[0] != shape[1]:
        yield "the other order", Array(heap(shape[::-1], dtype), device)
    if len(shape) == 2 and min(shape) > 1:
        yield "strides", Array(heap((shape[0], 2 * shape[1]), dtype)[:, ::2], device)
        yield "no axis", Array(heap(shape, dtype).flatten(), device)
    if values.itemsize > 1:
        yield "address", Array(on_16_bytes(shape, dtype, shift=1), device)
    yield "the other device", Array(heap(shape, dtype), CPU + CUDA - device)
    if device == CUDA:
        yield "another GPU", Array(heap(shape, dtype), device, number=1)
    yield "None", None


def fuzz(native, name, dtype, device, rng):
    """How many calls were refused."""
    function, (arrays, numbers) = getattr(native, name), FUNCTIONS[name]
    good = {}
    for argument, shape, kind in arrays:
        if argument[0] == "*" and device == CPU:
            continue
        if shape is None:
            p = (8.7,) if name == "backward" else (INF,)
            maker, p = ("lse_workspace", ()) if name[:3] == "lse" else ("backward_workspace", p)
            shape = (getattr(native, maker)(BATCH, OUT, IN, *p, np.dtype(dtype).itemsize),)
        values = heap(shape, dtype if kind is T else kind)
        if kind is INT:
            values[...] = 1
        if kind is BYTE:
            values = on_16_bytes(shape, BYTE)
        good[argument.lstrip("*")] = Array(values, device)
    for argument, value, _ in numbers:
        good[argument] = value
    if device == CUDA:
        good["stream"] = 0
    function(*good.values())
    function(**good)
    wrong = {
        argument: [
            (why, value)
            for why, value in changed(array.values, rng, device)
            # No workspace is needed: any is enough.
            if not (argument == "workspace" and array.values.size == 0 and why[:5] == "shape")
        ]
        for argument, array in good.items()
        if isinstance(array, Array)
    }
    for argument, _, refused in numbers:
        wrong[argument] = [(repr(value), value) for value in refused]
    refusals = 0
    for argument, values in wrong.items():
        for why, value in values:
            try:
                function(**{**good, argument: value})
            except ValueError as error:
                assert str(error).startswith(f"{name}: "), error
            except TypeError as error:
                assert name in str(error), error
            else:
                raise AssertionError(f"{name} took {argument} with {why}")
            refusals += 1
    for _ in range(200):  # several at once
        picked = [a for a in wrong if wrong[a] and rng.random() < 0.4]
        call = {**good, **{a: wrong[a][rng.integers(len(wrong[a]))][1] for a in picked}}
        try:
            function(**call)
        except (ValueError, TypeError):
            refusals += 1
        else:
            # A change of one size in all arrays that share it is no mismatch.
            assert not picked or all(isinstance(call[a], Array) for a in picked), picked
    return refusals


def fuzz_index(native, dtype, device):
    """Indices that no forward pass gives: refused on the CPU, without effect on a GPU."""
    for values in ([-1], [IN], [2**31 - 1], [-(2**31)], [0, IN + 1, 1, -7]):
        index = np.resize(np.array(values, INT), PAIRS)
        arrays = [heap(shape, dtype) for shape in (PAIRS, X, W)]
        results = [heap(X, dtype), heap(W, dtype)]
        given = [Array(v, device) for v in (*arrays, index, *results)]
        if device == CUDA:
            size = native.backward_workspace(BATCH, OUT, IN, INF, np.dtype(dtype).itemsize)
            native.backward_with_index(*given, Array(on_16_bytes((size,), BYTE), device), 0)
            inside = (index >= 0) & (index < IN)
            touched = np.zeros(X, bool)
            for b, j in zip(*inside.nonzero(), strict=True):
                touched[b, index[b, j]] = True
            assert not results[0][~touched].any()
            continue
        try:
            native.backward_with_index(*given)
        except ValueError as error:
            assert "index must be from 0 to 4" in str(error), error
        else:
            raise AssertionError(f"an index of {values} was taken")


def fuzz_sizes(native):
    """Sizes of a workspace: none is empty, none overflows."""
    for name, p in (("backward_workspace", (8.7,)), ("lse_workspace", ())):
        function = getattr(native, name)
        for axis in range(3):
            for size in (0, -1, -(2**62), 2**31, 2**62):
                sizes = [BATCH, OUT, IN]
                sizes[axis] = size
                for element in (4, 8):
                    refuses(function, *sizes, *p, element)
        refuses(function, 2**31 - 1, 2**31 - 1, 1, *p, 4)
        for element in (0, -4, 2, 3, 16):
            refuses(function, BATCH, OUT, IN, *p, element)


def refuses(function, *arguments):
    try:
        function(*arguments)
    except ValueError:
        return
    raise AssertionError(f"{arguments} were taken")


def main(path, *places):
    spec = importlib.util.spec_from_file_location("_native", path)
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    rng, device = np.random.default_rng(0), CUDA if "cuda" in places else CPU
    total = 0
    for dtype in (np.float32, np.float64):
        for name in FUNCTIONS:
            total += fuzz(native, name, dtype, device, rng)
        fuzz_index(native, dtype, device)
    if device == CUDA:
        fuzz_sizes(native)
    print(f"{total} calls were refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
