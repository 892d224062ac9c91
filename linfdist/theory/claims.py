"""Every numbered statement of the paper: where this project shows it, and the verdict."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

Verdict = Literal[
    "definition",
    "holds",
    "holds, sharpened",
    "holds, with a correction",
    "does not hold",
    "quoted",
]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement: its ``page`` of the book, relative to book/, and its tests, "file::function".

    The verdict "quoted" means: the statement is taken from the work that the paper cites, used as
    the paper uses it, and not proven here.
    """

    name: str
    statement: str
    page: str
    tests: tuple[str, ...]
    verdict: Verdict
    note: str = ""


CLAIMS = (
    Claim(
        name="Remark 3.1",
        statement="‖x − w‖∞ measures similarity: it is never negative, and small where x is like w",
        page="theory/neuron",
        tests=("ops/test_lp_dist.py::test_infinite_p_is_exact",),
        verdict="definition",
    ),
    Claim(
        name="Definition 3.2",
        statement="ℓ∞-dist net: layers of neurons ‖x − w‖∞ + b; logits are minus the last",
        page="theory/neuron",
        tests=("nn/test_nets.py::test_counts_of_table_5",),
        verdict="definition",
        note="a hidden layer's bias is its mean shift",
    ),
    Claim(
        name="Definition 3.3",
        statement="λ-Lipschitz with respect to ℓp",
        page="theory/neuron",
        tests=("nn/test_nets.py::test_lipschitz_constant_is_one_over_std",),
        verdict="definition",
    ),
    Claim(
        name="Fact 3.4",
        statement="an ℓ∞-dist net is 1-Lipschitz in ℓ∞",
        page="theory/neuron",
        tests=(
            "nn/test_nets.py::test_lipschitz_constant_is_one_over_std",
            "ops/test_properties.py::test_one_lipschitz_at_infinity",
        ),
        verdict="holds",
    ),
    Claim(
        name="Remark 3.5",
        statement="an ℓp-dist net with p < ∞ is not, even with respect to ℓp",
        page="theory/finite_p",
        tests=(
            "theory/test_stretch.py::test_the_counter_example_attains_the_constant",
            "theory/test_stretch.py::test_no_net_stretches_further",
            "theory/test_stretch.py::test_a_single_neuron_is_1_lipschitz_in_lp_and_a_layer_is_not",
        ),
        verdict="holds, sharpened",
        note="the exact constant, with the net that attains it; one neuron alone is 1-Lipschitz",
    ),
    Claim(
        name="Fact 3.6",
        statement="no x′ closer than margin / 2 changes the prediction",
        page="theory/neuron",
        tests=(
            "robust/test_certificates.py::"
            "test_no_image_within_the_margin_radius_changes_the_prediction",
        ),
        verdict="holds",
    ),
    Claim(
        name="Theorem 4.1",
        statement="width d + 2 comes within ε of any 1-Lipschitz function on a bounded domain",
        page="theory/approximation",
        tests=(
            "theory/test_approximation.py::test_theorem",
            "theory/test_approximation.py::test_a_grid_spaced_too_wide_is_found",
            "theory/test_approximation.py::test_a_wrong_map_is_found",
        ),
        verdict="holds, sharpened",
        note="two layers a pyramid instead of 2d, or three in all; within ε in float32, too",
    ),
    Claim(
        name="Theorem 4.2",
        statement="robust test error ≤ margin error + Õ(LW² / (δ√n)) + …, for all r and all nets",
        page="theory/generalization",
        tests=(
            "theory/test_generalization.py::test_the_terms_of_the_paper",
            "theory/test_generalization.py::test_without_delta_the_bound_is_never_worse",
            "theory/test_patterns.py::test_the_uniform_bound_holds_on_a_class_that_can_be_searched",
        ),
        verdict="holds, with a correction",
        note="the proof rests on Eq. 16; a direct one gives LW / √n without δ. Says nothing about "
        "the paper's own networks: it is above 1",
    ),
    Claim(
        name="Lemma A.1",
        statement="max_i f_i ≤ f ≤ max_i f_i + ε for finitely many pyramids f_i",
        page="theory/approximation",
        tests=(
            "theory/test_pyramids.py::test_lemma",
            "theory/test_pyramids.py::test_the_bound_is_attained",
        ),
        verdict="holds, with a correction",
        note="for a box; for other domains the function is to be extended first. Fewer do",
    ),
    Claim(
        name="Proposition A.2",
        statement="one neuron computes ±x_j + c and max(±x_j + w, x_k) + c",
        page="theory/units",
        tests=(
            "theory/test_units.py::test_projection_and_negation",
            "theory/test_units.py::test_maximum",
            "theory/test_units.py::test_a_wrong_sign_is_found",
        ),
        verdict="holds, sharpened",
        note="the maximum of any number of inputs",
    ),
    Claim(
        name="Lemma A.3",
        statement="test error by margins on the sample and Rademacher complexity",
        page="theory/generalization",
        tests=(),
        verdict="quoted",
    ),
    Claim(
        name="Lemma A.4",
        statement="the same for the margin error at r",
        page="theory/generalization",
        tests=(),
        verdict="quoted",
        note="for one r; the direct bound is for all r at once",
    ),
    Claim(
        name="Equation 16",
        statement="Rademacher complexity ≤ √(2 VCdim log(en / VCdim) / n)",
        page="theory/generalization",
        tests=("theory/test_patterns.py::test_patterns_never_exceed_the_cells",),
        verdict="does not hold",
        note="true of the signs; a bias makes the left side infinite. The direct bound needs none",
    ),
    Claim(
        name="Lemma A.5",
        statement="robust error ≤ margin error",
        page="theory/generalization",
        tests=(
            "theory/test_generalization.py::"
            "test_margin_error_is_above_certified_and_attacked_error",
            "theory/test_generalization.py::test_without_the_lipschitz_constant_lemma_a5_fails",
        ),
        verdict="holds",
    ),
    Claim(
        name="Lemma A.6",
        statement="VC dimension of a ReLU network is Õ(L²w²)",
        page="theory/generalization",
        tests=(),
        verdict="quoted",
        note="the constants are of our own count",
    ),
    Claim(
        name="Lemma A.7",
        statement="‖x − w‖∞ is a ReLU network of width O(d) and depth O(log d)",
        page="theory/relu",
        tests=(
            "theory/test_relu.py::test_the_network_is_the_distance",
            "theory/test_relu.py::test_closed_formulas_for_powers_of_two",
            "theory/test_relu.py::test_a_planted_fault_is_seen",
        ),
        verdict="holds, sharpened",
        note="width 2d instead of 3d",
    ),
    Claim(
        name="Lemma A.8",
        statement="VC dimension of an ℓ∞-dist net is Õ(L²w⁴)",
        page="theory/generalization",
        tests=(
            "theory/test_relu.py::test_a_net_as_one_relu_network",
            "theory/test_generalization.py::"
            "test_the_direct_bound_is_the_smaller_and_grows_as_claimed",
            "theory/test_patterns.py::test_patterns_never_exceed_the_cells",
        ),
        verdict="holds, sharpened",
        note="Õ(L²w²)",
    ),
    Claim(
        name="Remark A.9",
        statement="bounds for all Lipschitz functions fall as n^(−1/d); Theorem 4.2 has no d",
        page="theory/generalization",
        tests=("theory/test_generalization.py::test_rates_in_the_width",),
        verdict="holds, with a correction",
        note="the rate is quoted; W ≥ d brings the dimension back",
    ),
    Claim(
        name="Equations 19 and 20",
        statement="interval bounds of a linear layer",
        page="theory/intervals",
        tests=(
            "theory/test_intervals.py::test_eqs_19_and_20_are_the_range_of_each_output",
            "theory/test_intervals.py::test_points_leave_the_bounds_of_a_faulty_rule",
        ),
        verdict="holds, with a correction",
        note="the bias b is missing from μ",
    ),
    Claim(
        name="Equation 21",
        statement="bounds of the margins with the last layer merged are tighter",
        page="theory/intervals",
        tests=(
            "theory/test_intervals.py::test_eq_21_bounds_the_margins_and_is_the_tighter",
            "theory/test_intervals.py::test_the_simple_margin_as_printed_is_no_bound_of_the_loss",
        ),
        verdict="holds, with a correction",
        note="the simple margin beside it must be set to 0 at the true class",
    ),
    Claim(
        name="Equation 22",
        statement="the loss, κ of the clean and 1 − κ of the worst case",
        page="theory/intervals",
        tests=(
            "theory/test_intervals.py::test_eq_22_weighs_the_clean_loss_and_a_bound_of_every_other",
        ),
        verdict="holds",
        note="the authors' code has κ the other way round",
    ),
    Claim(
        name="Appendix C",
        statement="AdderNet can promise no robustness, with batch normalisation or without",
        page="theory/finite_p",
        tests=(
            "theory/test_addernet.py::test_the_bound_is_never_exceeded",
            "theory/test_addernet.py::"
            "test_without_batch_normalisation_it_is_the_constant_of_remark_3_5",
        ),
        verdict="holds, with a correction",
        note="a promise exists, and is tiny",
    ),
)


def table() -> pd.DataFrame:
    """One row per claim: name, statement, page, number of tests, verdict and note."""
    columns = ("claim", "statement", "page", "tests", "verdict", "note")
    rows = [(c.name, c.statement, c.page, len(c.tests), c.verdict, c.note) for c in CLAIMS]
    return pd.DataFrame(rows, columns=list(columns))
