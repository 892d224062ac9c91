"""The paper's tables, with the numbers recorded here beside the printed ones, and our own."""

from linfdist.report.architectures import layers
from linfdist.report.comparisons import effects, show_effects
from linfdist.report.curves import (
    FATES,
    certified_shares,
    fates,
    plot_curves,
    plot_fates,
    plot_margins,
)
from linfdist.report.formats import ACCURACIES, format_flops, format_pixels
from linfdist.report.ledger import Verdict, headlines, ledger
from linfdist.report.ledger_page import VERDICT_COLORS, show_ledger, verdicts
from linfdist.report.robust_column import by_attack, robust_column, show_robust_column, wilson
from linfdist.report.study import show_study, study
from linfdist.report.tables import show, table, text
from linfdist.report.training_settings import hyper_parameters

__all__ = [
    "ACCURACIES",
    "FATES",
    "VERDICT_COLORS",
    "Verdict",
    "by_attack",
    "certified_shares",
    "effects",
    "fates",
    "format_flops",
    "format_pixels",
    "headlines",
    "hyper_parameters",
    "layers",
    "ledger",
    "plot_curves",
    "plot_fates",
    "plot_margins",
    "robust_column",
    "show",
    "show_effects",
    "show_ledger",
    "show_robust_column",
    "show_study",
    "study",
    "table",
    "text",
    "verdicts",
    "wilson",
]
