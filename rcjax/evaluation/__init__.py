"""How good a model's rankings are, and whether they stay so when they come from cached blocks."""

from rcjax.evaluation.command import run_eval
from rcjax.evaluation.evaluation import EvalOptions, Evaluation, evaluate
from rcjax.evaluation.gate import Violation, gate_violations
from rcjax.evaluation.report import write_report

__all__ = ["EvalOptions", "Evaluation", "Violation", "evaluate", "gate_violations", "run_eval", "write_report"]
