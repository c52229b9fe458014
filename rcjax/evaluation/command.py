"""`rcjax eval`: an evaluation, its files, and the gate's verdict."""

from pathlib import Path

from rich.console import Console

from rcjax.config import Settings
from rcjax.disk import check_folder
from rcjax.evaluation.arms import chosen_arms, compared_arms
from rcjax.evaluation.evaluation import EvalOptions, Evaluation, evaluate
from rcjax.evaluation.event_file import check_events, write_summaries
from rcjax.evaluation.gate import METRIC, gate_violations
from rcjax.evaluation.plot import check_plot, write_plot
from rcjax.evaluation.report import gate_record, write_report
from rcjax.evaluation.tables import gate_lines
from rcjax.model.spec import Model


def run_eval(
    console: Console,
    settings: Settings,
    options: EvalOptions,
    *,
    json_file: Path | None = None,
    plot_file: Path | None = None,
    event_folder: Path | None = None,
    gate: float | None = None,
    model: Model | None = None,
) -> bool:
    """Evaluates, prints and writes what was found; whether the gate passed, which it does where there is none.

    Before anything is measured: `DiskError` where a file could not be written, ValueError where a package for that is
    missing or the gate would have no arm to judge.
    """
    for path in filter(None, (json_file, plot_file)):
        check_folder(path.parent)
    if plot_file:
        check_plot(plot_file)
    if event_folder:
        check_events(event_folder)
    judged = _judged(settings, options)
    if gate is not None and not judged:
        raise ValueError("the gate has no arm to judge: name one that takes blocks from the cache")
    evaluation = evaluate(console, settings, options, model=model)
    if plot_file:
        has_teacher = evaluation.teacher is not None
        write_plot(plot_file, evaluation.summaries, _lines(evaluation), _title(evaluation), has_teacher=has_teacher)
    violations = []
    if gate is not None:
        violations = gate_violations({name: evaluation.summaries[name] for name in judged}, gate)
        reference = "full recompute" if options.teacher is None else "the teacher"
        for line in gate_lines(violations, len(judged), gate, evaluation.num_requests, reference):
            console.print(line, style="bold red" if violations else "bold green", markup=False, highlight=False)
    if json_file:
        write_report(json_file, evaluation, None if gate is None else gate_record(violations, gate))
    if event_folder:
        write_summaries(event_folder, evaluation.summaries)
    for path in filter(None, (json_file, plot_file, event_folder)):
        console.print(f"wrote {path}", markup=False, highlight=False)
    return not violations


def _judged(settings: Settings, options: EvalOptions) -> list[str]:
    """The arms that a gate is for: those of the settings that are compared with another."""
    if options.teacher is not None:
        return list(chosen_arms(settings, options.arms))
    _, references = compared_arms(settings, options.arms)
    return [name for name, reference in references.items() if reference is not None]


def _lines(evaluation: Evaluation) -> dict[str, float]:
    baselines = {name: summary.metrics[METRIC].value for name, summary in evaluation.baselines.items()}
    return {name: values[METRIC] for name, values in evaluation.bounds.items()} | baselines


def _title(evaluation: Evaluation) -> str:
    teacher = f", teacher {evaluation.teacher.model}" if evaluation.teacher else ""
    ran = f"{evaluation.info.model} {evaluation.info.dtype}{teacher}"
    return f"{ran}, n = {evaluation.num_requests:,}, seed {evaluation.seed}\n{evaluation.dataset.origin}"
