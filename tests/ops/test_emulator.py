"""The emulator finds what it is there to find: each planted bug, and nothing in right kernels."""

import emulator
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    emulator.compiler() is None, reason="the emulation needs a C++20 compiler: install g++"
)

VALUES = np.arange(1, 65, dtype=np.float32)
LANES = np.arange(64)
# what the kernels of planted.cu without a bug compute
EXPECTED = {
    "race": VALUES[::-1],
    "warp_race": VALUES[LANES ^ 31],
    "unwaited": VALUES,
    "waited_for_too_few": VALUES,
    "early_copy": sum(np.roll(VALUES, -slice_) for slice_ in range(4))[::-1],
    "deadlock": VALUES,
    "wrong_mask": VALUES[LANES ^ 1],
    "misaligned": VALUES,
    "unwritten": VALUES,
    "past_the_end": VALUES,
    "blocks_in_order": np.ones(64),
}
# … and with it: an error that says so, poison, or another result in the other order
ERRORS = {
    "deadlock": r"deadlock<false>.*block \(0, 0, 0\): threads wait for each other: "
    r"32 of 64 at __syncthreads, thread 16 at __syncwarp of mask 4294967295, 0 ended",
    "wrong_mask": "__shfl_xor_sync by a lane that its mask leaves out",
    "misaligned": "copy_async of 16 bytes between addresses not aligned to them",
    "past_the_end": "wrote before or past the end",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return emulator.Planted(emulator.build_planted(tmp_path_factory.mktemp("planted")))


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_kernel_without_its_bug_is_right_in_any_order(planted, name, order):
    np.testing.assert_array_equal(
        planted.run(name, VALUES, right=True, order=order), EXPECTED[name]
    )


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - ERRORS.keys()))
def test_a_bug_shows_in_one_order_at_least(planted, name):
    results = [
        planted.run(name, VALUES, right=False, order=order) for order in ("forward", "reverse")
    ]
    assert any((result != EXPECTED[name]).any() for result in results)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_bug_is_named(planted, name, order):
    with pytest.raises(RuntimeError, match=ERRORS[name]):
        planted.run(name, VALUES, right=False, order=order)
