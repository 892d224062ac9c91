"""The schedules at the points where the paper fixes them."""

import math

import pytest

from linfdist.optim import eps_at, lr_at, p_at, relaxation_at, weight_at

pytestmark = pytest.mark.quick

PAPER = (50, 300, 50)


def test_p_rises_exponentially_between_its_ends():
    assert p_at(0, PAPER) == p_at(50, PAPER) == 8
    assert p_at(200, PAPER) == pytest.approx(math.sqrt(8 * 1000))
    assert p_at(349.999, PAPER) == pytest.approx(1000, rel=1e-4)
    assert p_at(349.999, PAPER) < 1000
    assert p_at(350, PAPER) == p_at(400, PAPER) == math.inf


def test_p_is_monotone_and_changes_with_each_mini_batch():
    values = [p_at(step / 10, (2, 5, 1)) for step in range(80)]
    assert values == sorted(values)
    assert len(set(values)) == 1 + 49 + 1


def test_p_without_smoothing_or_without_phases():
    assert p_at(0, PAPER, math.inf, math.inf) == math.inf
    assert p_at(0, (0, 5, 0)) == 8
    assert p_at(0, (0, 0, 5)) == math.inf
    assert p_at(4.9, (5, 0, 0)) == 8


def test_a_rise_from_another_p():
    assert [p_at(t, (2, 4, 1), 8.0, 80.0, 20.0) for t in (0, 2)] == [8, 8]
    assert p_at(4, (2, 4, 1), 8.0, 80.0, 20.0) == pytest.approx(40)
    assert p_at(6, (2, 4, 1), 8.0, 80.0, 20.0) == math.inf


def test_learning_rate_is_constant_then_a_half_cosine_to_zero():
    assert lr_at(0, PAPER) == lr_at(50, PAPER) == 0.02
    assert lr_at(225, PAPER) == pytest.approx(0.01)
    assert lr_at(400, PAPER) == pytest.approx(0, abs=1e-12)
    assert lr_at(50 + 350 / 3, PAPER) == pytest.approx(0.015)
    assert lr_at(3, (5, 0, 0), 0.04) == 0.04


def test_relaxation_falls_to_one_as_p_rises():
    values = [relaxation_at(t, (10, 20, 5), 9.0) for t in (0, 10, 20, 29.999, 30, 35)]
    assert values == pytest.approx([9, 9, 3, 1, 1, 1], rel=1e-3)
    assert values[-2] == 1 and relaxation_at(0, (0, 0, 5), 9.0) == 1
    assert [relaxation_at(t, (5, 0, 0), 9.0) for t in (0, 4.9)] == [9, 9]
    assert {relaxation_at(t, PAPER) for t in (0, 100, 400)} == {1}


def test_eps_warms_up_linearly_over_the_first_phase():
    assert [eps_at(t, PAPER, 0.4) for t in (0, 25, 50, 400)] == [0, 0.2, 0.4, 0.4]
    assert eps_at(0, (0, 5, 5), 0.4) == 0.4


def test_the_cosine_may_start_at_once():
    assert lr_at(0, PAPER, 0.02, "cosine") == 0.02
    assert lr_at(200, PAPER, 0.02, "cosine") == pytest.approx(0.01)
    assert lr_at(100, PAPER, 0.02, "cosine") == pytest.approx(0.01 * (1 + math.sqrt(0.5)))
    assert lr_at(400, PAPER, 0.02, "cosine") == pytest.approx(0, abs=1e-12)
    assert lr_at(2.5, (5, 0, 0), 0.02, "cosine") == pytest.approx(0.01)
    values = [lr_at(step / 10, (2, 5, 1), 0.02, "cosine") for step in range(81)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 81
    assert lr_at(75, PAPER) == lr_at(75, PAPER, 0.02, "paper") < 0.02


def test_the_weight_of_the_cross_entropy_falls_as_p_rises():
    weights = (1.0, 0.1, 0.001)
    assert [weight_at(t, PAPER, weights) for t in (0, 49.999)] == [1.0, 1.0]
    assert weight_at(50, PAPER, weights) == 0.1
    assert weight_at(200, PAPER, weights) == pytest.approx(0.01)
    assert weight_at(349.999, PAPER, weights) == pytest.approx(0.001, rel=1e-4)
    assert {weight_at(t, PAPER, weights) for t in (350, 375, 400)} == {0.001}
    assert weight_at(0, (0, 4, 1), weights) == 0.1
    assert weight_at(2, (2, 0, 3), weights) == 0.001
    assert {weight_at(t, PAPER, (0.0, 0.0, 0.0)) for t in (0, 50, 200, 400)} == {0.0}
    rising = [weight_at(t, PAPER, (0.0, 0.1, 0.4)) for t in (0, 50, 200, 350)]
    assert rising == pytest.approx([0, 0.1, 0.2, 0.4])


def test_no_schedule_moves_past_its_end():
    assert lr_at(5, (5, 0, 0), 0.04) == 0.04  # where the constant phase is all there is
    assert lr_at(400, PAPER) == lr_at(450, PAPER) == lr_at(1e6, PAPER)
    assert lr_at(450, PAPER) == pytest.approx(0, abs=1e-12)
    assert eps_at(1e6, PAPER, 0.4) == 0.4 and relaxation_at(1e6, PAPER, 9.0) == 1
    assert p_at(1e6, PAPER) == math.inf


def test_an_infinite_p_is_infinite_in_every_phase():
    assert {p_at(t, PAPER, math.inf, 1000.0) for t in (0, 50, 200, 349.9, 400)} == {math.inf}
    assert {p_at(t, PAPER, math.inf, math.inf, 8.0) for t in (0, 200)} == {math.inf}


def test_phases_meet_without_a_jump():
    e1, e2, _ = PAPER
    just = 1e-9
    assert p_at(e1 + just, PAPER) == pytest.approx(8) and p_at(e1 - just, PAPER) == 8
    assert lr_at(e1 + just, PAPER) == pytest.approx(0.02)
    assert relaxation_at(e1 + just, PAPER, 9.0) == pytest.approx(9)
    assert relaxation_at(e1 + e2 - just, PAPER, 9.0) == pytest.approx(1)
    assert eps_at(e1 - just, PAPER, 0.4) == pytest.approx(0.4)
