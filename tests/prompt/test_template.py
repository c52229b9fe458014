"""What a template renders, and that a wrong one is refused where it is read, by the field at fault."""

import pytest
import yaml
from char_encoder import small_fields, small_template
from jinja2.sandbox import SecurityError

from rcjax.catalog.types import Event, Item
from rcjax.prompt.template import Template, load_template


def changed(path, value):
    """The small template's fields, one of them changed; None removes it."""
    fields = small_fields()
    *parents, last = path.split(".")
    inner = fields
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return fields


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("item", None, "item"),
        ("version", "two", "version"),
        ("history.event", None, "history.event"),
        ("history.opening", "x", "history.opening"),
        ("label.sequential.befor_item", "x", "label.sequential.befor_item"),
        ("label.parallel.before_item", "{{ label }}", "label.parallel.before_item"),
        ("anchor.parallel.before_item", "x", "anchor.parallel.before_item"),
        ("anchor.sequential.after_item", "", "anchor.sequential.after_item"),
        ("anchor.parallel.after_item", None, "anchor.parallel.after_item"),
        ("anchor.sequential.task", "?", "anchor.sequential.task"),
        ("anchor.parallel.task", "?", "anchor.parallel.task"),
        ("anchor.positive", None, "anchor.positive"),
        ("item", "{{ title", "item"),
        ("history.event", "{% if %}", "history.event"),
        ("label.sequential.before_item", "{{ label", "label.sequential.before_item"),
        ("item", "{{ titel }}", "item: unknown 'titel'"),
        ("history.event", "{{ price }}", "history.event: unknown 'price'"),
        ("history.open", "{{ title }}", "history.open: unknown 'title'"),
        ("anchor.parallel.after_item", "{{ lable }}", "anchor.parallel.after_item: unknown 'lable'"),
        ("label.parallel.task", "", "label.parallel.task"),
        ("label.sequential.before_item", "-", "label.sequential"),
        ("label.parallel.after_item", "", "label.parallel"),
    ],
)
def test_a_wrong_template_names_its_field(path, value, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml") as caught:
        load_template(str(file))
    assert message in str(caught.value)
    assert all(line.startswith(f"{file}: ") for line in str(caught.value).split("\n"))


def test_yaml_that_cannot_be_read_names_the_file(tmp_path):
    file = tmp_path / "broken.yml"
    file.write_text("name: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.yml"):
        load_template(str(file))


def test_a_file_is_read_as_utf8(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(small_fields() | {"instruction": "größer"}, allow_unicode=True), encoding="utf-8")
    assert load_template(str(file)).instruction == "größer"


def test_an_unknown_builtin_names_those_there_are():
    with pytest.raises(
        ValueError, match=r"'shoop' is neither a .yaml file nor built in \(built in: 'compact', 'shop'\)"
    ):
        load_template("shoop")


def test_items_and_events_render_every_field():
    fields = small_fields() | {
        "item": "{{ item_id }}|{{ title }}|{{ description }}|{{ brand }}|{{ categories | join('>') }}|{{ price }}",
        "history": {"open": "", "event": "{{ item_id }}|{{ title }}|{{ text }}|{{ rating }}", "empty": ""},
    }
    template = Template.model_validate(fields)
    assert template.render_item(Item("1", "T", "D", "B", ("c", "d"), 2.5)) == "1|T|D|B|c>d|2.5"
    assert template.render_event(Event("1", "T", "x", 4.0)) == "1|T|x|4.0"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Item("1", "Cup"), " Cup."),
        (Item("1", "Cup", brand="Acme"), " Cup by Acme."),
        (Item("1", "Acme Cup", brand="Acme"), " Acme Cup."),
        (Item("1", "Cup", price=0.0), " Cup. $0.00."),
        (Item("1", "Cup", "Blue & <b>tall</b>", price=3.456), " Cup. $3.46. Blue & <b>tall</b>"),
    ],
)
def test_shop_items(item, text):
    assert load_template("shop").render_item(item) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("1", "Cup"), "- Cup\n"),
        (Event("1", "Cup", rating=0.0), "- Cup (0/5)\n"),
        (Event("1", "Cup", rating=4.5, text="Nice"), "- Cup (4.5/5): Nice\n"),
    ],
)
def test_shop_events(event, text):
    assert load_template("shop").render_event(event) == text


def test_user_text_is_data():
    template = small_template()
    assert template.render_item(Item("1", "{{ 7 * 7 }}{% raw %}")) == "{{ 7 * 7 }}{% raw %}"


def test_a_template_cannot_reach_into_python():
    template = small_template(item="{{ title.__class__.__mro__ }}")
    with pytest.raises(SecurityError, match="unsafe"):
        template.render_item(Item("1", "x"))


def test_identity_tells_texts_apart():
    same = small_template()
    assert same.identity == small_template().identity
    for path in ("instruction", "history.open", "label.parallel.task", "anchor.positive"):
        assert Template.model_validate(changed(path, "else")).identity != same.identity
