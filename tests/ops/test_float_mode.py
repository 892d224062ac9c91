"""No certificate is taken where a thread rounds or flushes otherwise than IEEE 754's default."""

import ctypes
import os

import pytest
import torch
from helpers.forks import run_script

from linfdist.ops import backend, native
from linfdist.ops.float_mode import check_float_mode

CPU = torch.device("cpu")
TO_X86 = {"upward": 0x800, "downward": 0x400, "to zero": 0xC00}  # of <fenv.h>

# Threads are made while denormals are flushed, and go on flushing: 2 of them, as in the tables.
POISONED = """
import sys, torch
torch.set_num_threads(2)
if not torch.set_flush_denormal(True):
    sys.exit(77)
torch.ones(1 << 18)
torch.set_flush_denormal(False)
tiny = torch.full((1 << 18,), 2.0**-149)
assert (tiny + 0.0 == 0).any(), "no thread was poisoned"
from linfdist.ops import native
from linfdist.ops.float_mode import check_float_mode
"""
# Features of 1.5 · 2^-127 belong to class 0, and as a 0 to class 1.
CERTIFIES = """
from linfdist.nn import NetConfig, build_net
from linfdist.robust import sound_certified
config = NetConfig(kind="net", hidden=(1,))
net = build_net(config, input_shape=(1, 1, 1), num_classes=2, mean=(0.0,), std=1.0).eval()
with torch.no_grad():
    net.features.layers[1].weight.fill_(1.5 * 2.0**-127)
    net.last.weight.copy_(torch.tensor([[2.0**-126], [-(2.0**-127)]]))
images = torch.zeros(200_000, 1, 1, 1, dtype=torch.uint8)
assert (net(images[:1].float()).argmax(1) == 0).all()
assert sound_certified(net, images, torch.zeros(200_000, dtype=torch.int64), 0.0).all()
assert not sound_certified(net, images, torch.ones(200_000, dtype=torch.int64), 0.0).any()
"""
SHARED = """
check_float_mode("caller", torch.device("cpu"))
assert (tiny + 0.0 == tiny).all() and (tiny + 0.0 != 0).all()
eye = torch.eye(512, dtype=torch.float64)
assert ((eye * 2.0**-1060) @ eye).diagonal().count_nonzero() == 512
from linfdist.ops import lp_dist
assert (lp_dist(torch.zeros(512, 100), torch.full((512, 100), 2.0**-149)) != 0).all()
torch.set_num_threads(4)
check_float_mode("caller", torch.device("cpu"))
assert (tiny + 0.0 != 0).all()
"""
REFUSED = """
native.module = lambda: None
try:
    check_float_mode("caller", torch.device("cpu"))
except ValueError as error:
    assert "denormals must be kept on every thread" in str(error), error
    assert "start a new process" in str(error), error
else:
    raise AssertionError("flushing workers were not seen")
"""


def run(script):
    done = run_script(script)
    if done.returncode == 77:
        pytest.skip("this processor does not flush denormals")
    assert done.returncode == 0, done.stderr


NATIVE = pytest.mark.skipif(backend() == "reference", reason="the native kernels are not built")


@NATIVE
def test_workers_made_while_denormals_were_flushed_keep_them_again():
    run(POISONED + SHARED)


@NATIVE
def test_no_wrong_class_is_certified_after_denormals_were_flushed_once():
    run(POISONED + CERTIFIES)


@NATIVE
def test_a_thread_of_python_s_has_workers_of_its_own_which_keep_denormals_too():
    lines = (POISONED + SHARED).replace("\n", "\n    ")
    run(
        "import threading\ndef work():\n    "
        + lines
        + "\n    print('done')\nfailed = []\nthreading.excepthook = failed.append\n"
        "thread = threading.Thread(target=work)\nthread.start()\nthread.join()\n"
        "assert not failed, failed\n"
    )


def test_without_the_native_module_flushing_workers_are_refused():
    run(POISONED + REFUSED)


@pytest.fixture
def reset_mode():
    math_library = ctypes.CDLL(None)
    before = math_library.fegetround()
    yield math_library
    math_library.fesetround(before)
    native.share_float_mode()


@pytest.mark.parametrize("module", ["native", "none"])
@pytest.mark.parametrize("mode", TO_X86)
def test_another_rounding_mode_is_refused(reset_mode, monkeypatch, mode, module):
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of the modes are x86's")
    if module == "none":
        monkeypatch.setattr(native, "module", lambda: None)
    reset_mode.fesetround(TO_X86[mode])
    with pytest.raises(ValueError, match="caller: results must be rounded to nearest on every"):
        check_float_mode("caller", CPU)
