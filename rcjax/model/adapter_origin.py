"""What an adapter was trained for: `rcjax.json` beside PEFT's files, which PEFT does not read."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from rcjax.model.fields import Fields, read_json
from rcjax.prompt import Layout, Scoring
from rcjax.prompt.template import Template

FILE, FORMAT = "rcjax.json", "rcjax.adapter.1"
ChoiceT = TypeVar("ChoiceT", bound=Enum)


@dataclass(frozen=True, slots=True)
class AdapterOrigin:
    """The template (its name and version, and a digest of its texts), how it was asked, the base's fingerprint, and how
    many of its first layers there were: the others are not for it."""

    template: str
    template_sha256: str
    layout: Layout
    scoring: Scoring
    base: str
    num_layers: int

    @classmethod
    def of(cls, template: Template, layout: Layout, scoring: Scoring, base: str, num_layers: int) -> "AdapterOrigin":
        return cls(_title(template), _sha256(template), layout, scoring, base, num_layers)

    def mismatches(self, template: Template, arms: Collection[tuple[Layout, Scoring]], base: str) -> list[str]:
        """A line for each way in which it is about to be used otherwise than it was trained."""
        lines = []
        if _sha256(template) != self.template_sha256:
            texts = ", of other texts" if _title(template) == self.template else ""
            lines.append(f"was trained with template {self.template}, and the settings' is {_title(template)}{texts}")
        if (self.layout, self.scoring) not in arms:
            lines.append(
                f"was trained for layout {self.layout} with scoring {self.scoring}, which nothing here asks for"
            )
        if base != self.base:
            lines.append("was trained on another base: its weights or config differ from this model's")
        return lines

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "template": self.template,
                "template_sha256": self.template_sha256,
                "layout": self.layout.value,
                "scoring": self.scoring.value,
                "base": self.base,
                "num_layers": self.num_layers,
            },
            indent=2,
        )


def read_origin(folder: Path) -> AdapterOrigin | None:
    """None where the adapter does not say; ModelLoadError where it says something else than this version writes."""
    path = folder / FILE
    if not path.exists():
        return None
    fields = read_json(path)
    if fields.text("format") != FORMAT:
        raise fields.error("format", f"is not {FORMAT!r}; remove the file to load the adapter without it")
    return AdapterOrigin(
        template=fields.text("template"),
        template_sha256=fields.text("template_sha256"),
        layout=_choice(fields, "layout", Layout),
        scoring=_choice(fields, "scoring", Scoring),
        base=fields.text("base"),
        num_layers=fields.integer("num_layers"),
    )


def _choice(fields: Fields, key: str, kind: type[ChoiceT]) -> ChoiceT:
    known = {choice.value: choice for choice in kind}
    if fields.text(key) not in known:
        raise fields.error(key, f"must be one of {', '.join(known)}")
    return known[fields.text(key)]


def _title(template: Template) -> str:
    return f"{template.name} v{template.version}"


def _sha256(template: Template) -> str:
    return hashlib.sha256(template.identity.encode()).hexdigest()
