"""The emulated kernels under AddressSanitizer and ThreadSanitizer: every access of every thread.

To ThreadSanitizer each thread of a block is a thread, ordered with the others by barriers alone: it
finds a race whether or not a result shows it. Minutes of building and running: not by default.
"""

import os
import subprocess

import emulator
import pytest

pytestmark = [
    pytest.mark.skipif(
        emulator.compiler() is None, reason="the emulation needs a C++20 compiler: install g++"
    ),
    pytest.mark.skipif(
        "LINFDIST_SANITIZE" not in os.environ,
        reason="takes minutes: set LINFDIST_SANITIZE=1 to run the kernels under sanitizers",
    ),
]

# every mainloop: one row by rows, tiles of 64 × 64, more samples than a block has
SIZES = {
    "address": ["9 7 33", "9 200 130", "3 3100 20", "3073 3 18", "65 1537 33"],
    "thread": ["9 7 33", "2 3073 4", "515 3 4"],
}


def run(program, *arguments):
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module", params=SIZES)
def checked(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, emulator.build_program(folder, request.param)


def test_no_access_is_out_of_bounds_or_unordered(checked):
    sanitizer, program = checked
    for sizes in SIZES[sanitizer]:
        done = run(program, *sizes.split())
        assert done.returncode == 0, emulator.named(done.stdout + done.stderr, program)


@pytest.fixture(scope="module", params=SIZES)
def planted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"planted_{request.param}")
    return request.param, emulator.build_program(folder, request.param, planted=True)


@pytest.mark.parametrize("name", ["race", "warp_race", "voted", "early_copy", "past_the_end"])
def test_a_sanitizer_finds_what_is_its_own_to_find(planted, name):
    sanitizer, program = planted
    assert run(program, name, "1").returncode == 0
    found = run(program, name, "0")
    ours = (sanitizer == "address") == (name == "past_the_end")
    assert ("Sanitizer" in found.stderr) is ours, found.stderr
