"""A template says, in YAML, how a request becomes text."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import jinja2.meta
import jinja2.sandbox
from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from rcjax.catalog.types import Event, Item
from rcjax.yaml_file import parse_yaml, read_yaml

_JINJA = jinja2.sandbox.SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
)

_ITEM_FIELDS = frozenset({"item_id", "title", "description", "brand", "categories", "price"})
_EVENT_FIELDS = frozenset({"item_id", "title", "text", "rating"})
_GLUE_FIELDS = frozenset({"label"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HistoryText(_Strict):
    """The history block: `open`, then `event` for each event, or `empty`.

    Without `open` and `empty`, an empty history is no block at all.
    """

    event: str
    open: str = ""
    empty: str = ""


class Glue(_Strict):
    """The fresh text around items, and the task that closes the prompt."""

    before_item: str = ""
    after_item: str = ""
    task: str = ""


class LabelGlue(_Strict):
    """Glue for `label` scoring: the answer's first token is one of the items' labels."""

    sequential: Glue
    parallel: Glue


class AnchorGlue(_Strict):
    """Glue for `anchor` scoring: after each item, does `positive` or `negative` come next?"""

    sequential: Glue
    parallel: Glue
    positive: str
    negative: str


class Template(_Strict):
    """The texts of a prompt, as Jinja2 over the fields of `Item` and `Event`.

    With `chat`, the instruction is the system message of the model's chat template, history and items are the
    user's message, and the task ends where the assistant's answer starts.
    """

    name: str
    version: int
    chat: bool
    instruction: str
    history: HistoryText
    item: str
    label: LabelGlue
    anchor: AnchorGlue
    _item: jinja2.Template = PrivateAttr()
    _event: jinja2.Template = PrivateAttr()

    @model_validator(mode="after")
    def _compile(self) -> "Template":
        self._item = _compiled("item", self.item, _ITEM_FIELDS)
        self._event = _compiled("history.event", self.history.event, _EVENT_FIELDS)
        _compiled("history.open", self.history.open)
        _compiled("history.empty", self.history.empty)
        for scoring, choice in (("label", self.label), ("anchor", self.anchor)):
            for layout, glue in (("sequential", choice.sequential), ("parallel", choice.parallel)):
                _check_glue(f"{scoring}.{layout}", glue)
        return self

    @property
    def identity(self) -> str:
        """Name, version and texts: two templates with the same identity make the same prompts."""
        return self.model_dump_json()

    def render_item(self, item: Item) -> str:
        return self._item.render(
            item_id=item.item_id,
            title=item.title,
            description=item.description,
            brand=item.brand,
            categories=item.categories,
            price=item.price,
        )

    def render_event(self, event: Event) -> str:
        return self._event.render(item_id=event.item_id, title=event.title, text=event.text, rating=event.rating)

    @staticmethod
    def render_glue(text: str, labels: Sequence[str]) -> list[str]:
        """A text of `Glue` beside an item, for each label."""
        glue = _JINJA.from_string(text)
        return [glue.render(label=label) for label in labels]


def _compiled(field: str, text: str, known: frozenset[str] = frozenset()) -> jinja2.Template:
    try:
        unknown = jinja2.meta.find_undeclared_variables(_JINJA.parse(text)) - known
        if unknown:
            raise ValueError(f"{field}: unknown {', '.join(map(repr, sorted(unknown)))}; known: {sorted(known)}")
        return _JINJA.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{field}: {error}") from error


def _check_glue(where: str, glue: Glue) -> None:
    scoring, layout = where.split(".")
    _compiled(f"{where}.before_item", glue.before_item, _GLUE_FIELDS)
    _compiled(f"{where}.after_item", glue.after_item, _GLUE_FIELDS)
    _compiled(f"{where}.task", glue.task)
    if layout == "parallel" and glue.before_item:
        raise ValueError(
            f"{where}.before_item={glue.before_item!r} must be empty: cached items do not see fresh text in the "
            "parallel layout; put it into after_item"
        )
    if scoring == "label":
        if "label" not in jinja2.meta.find_undeclared_variables(_JINJA.parse(glue.before_item + glue.after_item)):
            raise ValueError(f"{where} never writes {{{{ label }}}} beside an item, but the answer is a label")
        if not glue.task:
            raise ValueError(f"{where}.task is empty: the ranking is read at its last token")
    else:
        if not glue.after_item:
            raise ValueError(f"{where}.after_item is empty: the anchor is its last token")
        if glue.task:
            raise ValueError(f"{where}.task={glue.task!r} must be empty: nothing would read it")


def is_template_file(name: str) -> bool:
    """Whether a template's name is the path of a file; else it is the name of a built-in one."""
    return Path(name).suffix in (".yaml", ".yml")


def load_template(name: str) -> Template:
    """Reads a template: the path of a YAML file, or the name of a built-in one.

    Raises `ValueError` with a line for each error, naming the file and the field that is wrong.
    """
    if is_template_file(name):
        return read_yaml(Path(name), Template)
    folder = resources.files("rcjax.prompt") / "templates"
    known = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())
    if name not in known:
        raise ValueError(
            f"template {name!r} is neither a .yaml file nor built in (built in: {', '.join(map(repr, known))})"
        )
    return parse_yaml((folder / f"{name}.yaml").read_text(encoding="utf-8"), f"template {name}", Template)
