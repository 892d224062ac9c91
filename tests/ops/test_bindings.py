"""No function of the native module takes arguments that do not fit each other.

tests/ops/fuzz_bindings.py makes the calls, in a process of its own: one that is taken may end it.
"""

import os
import subprocess
import sys
from pathlib import Path

import emulator
import pytest
import torch

from linfdist.ops import backend, native

FUZZ = Path(__file__).with_name("fuzz_bindings.py")


def fuzzed(module, *places, **environment):
    done = subprocess.run(
        [sys.executable, str(FUZZ), str(module), *places],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[:10_000]
    return int(done.stdout.split()[0])


@pytest.mark.skipif(backend() == "reference", reason="the native kernels are not built")
def test_every_mismatch_is_refused_by_the_module_in_use():
    assert fuzzed(native.module().__file__) > 4000


@pytest.mark.skipif(
    "LINFDIST_SANITIZE" not in os.environ or emulator.compiler() != "g++",
    reason="takes minutes: set LINFDIST_SANITIZE=1 to fuzz both bindings under AddressSanitizer",
)
def test_every_mismatch_is_refused_by_both_bindings_under_a_sanitizer(tmp_path):
    module = emulator.build_module(tmp_path, "address")
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")  # the second: what throws must be known first
    ]
    environment = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    assert fuzzed(module, **environment) > 4000
    assert fuzzed(module, "cuda", **environment) > 4000


@pytest.mark.skipif(backend() == "reference", reason="the native kernels are not built")
def test_an_op_that_is_called_by_itself_with_what_does_not_fit_is_refused():
    ops, x, w = torch.ops.linfdist, torch.zeros(3, 5), torch.zeros(4, 5)
    pairs, index = torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.int32)
    for call, message in (
        (
            lambda: ops.lp_dist(x, w[:, :4], 8.0),
            r"weight must have the shape \(4, 5\); got \(4, 4\)",
        ),
        (lambda: ops.lp_dist_backward(pairs[:2], x, w, pairs, 8.0), r"grad must have the shape"),
        (lambda: ops.lp_dist_backward(pairs, x, w, pairs, float("inf")), "p must be below inf"),
        (lambda: ops.linf_dist_backward(pairs, x, w, index + 5), "index must be from 0 to 4"),
        (lambda: ops.linf_dist_backward(pairs, x, w, index[:2]), "index must have the shape"),
        (lambda: ops.linf_interval(x, x[:2], w), r"upper must have the shape \(3, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
