"""The page of what `import rcjax` offers; mkdocstrings fills it in."""

from collections.abc import Iterable

_INTRODUCTION = """# Python API

All that `import rcjax` offers. Names are imported when they are first used, so that it does not start JAX.
"""
_MET = (  # what these names return or hold, and a caller does not make
    "rcjax.serving.explanation.ExplainedBlock",
    "rcjax.request.RankedItem",
    "rcjax.request.TokenCounts",
    "rcjax.request.StageTimes",
    "rcjax.request.EngineInfo",
    "rcjax.request.ServiceLimits",
    "rcjax.request.EngineStats",
    "rcjax.request.SliceStats",
    "rcjax.catalog.report.ReadReport",
)


def python_page(names: Iterable[str]) -> str:
    groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for name in sorted(names):
        group = "Functions" if name.islower() else "Errors" if name.endswith("Error") else "Classes"
        groups[group].append(f"rcjax.{name}")
    groups["What they give back"] = list(_MET)
    sections = [f"## {group}\n\n" + "\n".join(f"::: {name}\n" for name in of) for group, of in groups.items()]
    return "\n".join([_INTRODUCTION, *sections])
