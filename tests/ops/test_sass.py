"""The machine code of the hot kernels is what their sources intend: counted, not timed."""

import json

import pytest
from helpers import disassembly, sass

REASON = disassembly.missing()
needs_code = pytest.mark.skipif(REASON is not None, reason=f"nothing to count: {REASON}")

TITLES = [kernel.title for kernel in sass.KERNELS]
POWERS = (1, 2, 4, 8)


@pytest.fixture(params=[pytest.param(name, marks=needs_code) for name in ("sm_80", "sm_90")])
def count(request):
    """Of a title, for one architecture."""
    here = {one.title: one for one in sass.counts() if one.architecture == request.param}
    if not here:
        pytest.skip(f"the module was built for other architectures than {request.param}")
    return here.__getitem__


@pytest.mark.parametrize("title", TITLES)
def test_nothing_is_spilled(count, title):
    assert (count(title).spills, count(title).stack_bytes) == (0, 0)


@pytest.mark.parametrize("title", TITLES)
def test_operands_come_by_asynchronous_copies_and_wide_loads(count, title):
    assert count(title).async_copies > 0
    assert count(title).wide_loads > 0


@pytest.mark.parametrize(
    "title",
    ["p = ∞, forward", "p = ∞, forward with index", "LogSumExp, tops for the backward pass"],
)
def test_infinite_p_is_a_subtraction_and_a_maximum(count, title):
    instructions = count(title).instructions
    assert instructions["FADD"] == instructions["FMNMX"] == 1
    assert count(title).pipes["FMA"] <= 1.04 and count(title).pipes["ALU"] <= 1.04
    assert count(title).pipes["issue"] <= 2.2


def test_the_interval_is_two_subtractions_and_four_maxima(count):
    assert count("interval").instructions["FADD"] == 2
    assert count("interval").instructions["FMNMX"] == 4


@pytest.mark.parametrize("p", POWERS)
def test_integer_powers_never_leave_the_pipe_of_multiplications(count, p):
    for title in (f"p = {p}, forward", f"p = {p}, both gradients"):
        assert count(title).pipes["MUFU"] == 0
    assert count(f"p = {p}, forward").pipes["ALU"] < 0.05


def test_the_eighth_power_takes_five_instructions_forward_and_eight_for_both_gradients(count):
    assert count("p = 8, forward").pipes["FMA"] <= 5
    assert count("p = 8, both gradients").pipes["FMA"] <= 8


@pytest.mark.parametrize("title", ["real p, forward", "real p, both gradients"])
def test_a_real_power_takes_two_special_functions_at_most(count, title):
    assert 1 <= count(title).pipes["MUFU"] <= 2


@pytest.mark.parametrize("passes", ["forward", "both gradients"])
def test_where_nothing_counts_no_special_function_runs(count, passes):
    assert count(f"large p, {passes}, nothing counts").pipes["MUFU"] == 0
    assert count(f"large p, {passes}, all counts").pipes["MUFU"] >= 2


# title and case: special functions of a pair, and at most so many instructions
LOG_SUM_EXP = {
    "forward, none counts": (0, 3.2),
    "forward, one counts": (1, 8.7),
    "forward, two and a new top": (2.25, 15),  # that of the new top is one of four pairs together
    "both gradients, none counts": (0, 5.1),
    "both gradients, one counts": (1, 10.6),
    "both gradients, two count": (2, 14.6),
}


@pytest.mark.parametrize("case", LOG_SUM_EXP)
def test_the_direct_sum_takes_as_many_special_functions_as_exponentials_count(count, case):
    special, most = LOG_SUM_EXP[case]
    pipes = count(f"LogSumExp, {case}").pipes
    assert pipes["MUFU"] == special and pipes["issue"] <= most


def test_the_model_gives_the_rooflines_of_a_known_mix():
    # A multiprocessor's clock: 64 maxima, 128 multiplications, 16 special functions.
    clock = 132 * 1.755e9
    assert sass.pairs_per_second({"FMA": 1, "ALU": 1, "issue": 2}) == pytest.approx(64 * clock)
    assert sass.pairs_per_second({"FMA": 5, "issue": 5}) == pytest.approx(128 / 5 * clock)
    assert sass.pairs_per_second({"MUFU": 2, "issue": 2}) == pytest.approx(16 / 2 * clock)


def test_instructions_within_a_condition_are_told_apart():
    lines = [
        (0x10, "LDS.128 R4, [R2]"),
        (0x20, "@!P0 BRA 0x60"),
        (0x30, "MUFU.LG2 R5, R4"),
        (0x40, "@P1 BRA 0x60"),
        (0x50, "MUFU.EX2 R5, R5"),
        (0x60, "FADD R6, R6, R5"),
        (0x70, "@P2 BRA 0x10"),
        (0x80, "EXIT"),
    ]
    loop = disassembly.hot_loop(lines)
    names = [[disassembly.opcode(text) for text in loop.instructions(taken)] for taken in range(3)]
    assert names[0] == ["LDS", "BRA", "FADD", "BRA"]
    assert names[1] == ["LDS", "BRA", "MUFU", "BRA", "FADD", "BRA"]
    assert names[2] == ["LDS", "BRA", "MUFU", "BRA", "MUFU", "FADD", "BRA"]


@needs_code
def test_the_report_is_json_and_says_what_it_is():
    report = json.loads(json.dumps(sass.report()))
    assert "no GPU ran" in report["counted"]
    assert report["nvcc"].startswith("release ")
    assert {kernel["title"] for kernel in report["kernels"]} == set(TITLES)
