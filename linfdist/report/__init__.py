"""Tables: the paper's with the numbers recorded here beside the printed ones, and our own."""

from linfdist.report.effects import effects, show_effects
from linfdist.report.formats import ACCURACIES, format_flops, format_pixels
from linfdist.report.ledger_page import VERDICT_COLORS, show_ledger, verdicts
from linfdist.report.ledger_rule import VERDICTS, headlines, ledger
from linfdist.report.results import show, table, text
from linfdist.report.robust import by_attack, robust_column, show_robust_column, wilson
from linfdist.report.settings import hyper_parameters, layers
from linfdist.report.study import show_study, study

__all__ = [
    "ACCURACIES",
    "VERDICTS",
    "VERDICT_COLORS",
    "by_attack",
    "effects",
    "format_flops",
    "format_pixels",
    "headlines",
    "hyper_parameters",
    "layers",
    "ledger",
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
