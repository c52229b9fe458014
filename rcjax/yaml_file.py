"""YAML that people write, read into pydantic models; each thing that is wrong with it is a line they can act on."""

import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)
_ADVICE = {"byte_size": "; write bytes, or a size such as 1 GiB"}


def read_yaml(path: Path, model: type[ModelT]) -> ModelT:
    """A file as a `model`; ValueError with a line for each error, naming the file, the field and its value."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start + 1}: {error.reason}); convert the file") from error
    return parse_yaml(text, str(path), model)


def parse_yaml(text: str, where: str, model: type[ModelT]) -> ModelT:
    """A text as a `model`, as `read_yaml` does it; an empty one holds no field. `where` is what errors name first."""
    try:
        values = yaml.load(text, Loader=_OnceLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{where}{place}: {one_line(error.problem or error)}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: YAML that is nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # PyYAML itself stumbles over dates, numbers and truth values that are none.
        raise ValueError(f"{where}: not YAML that can be read: {one_line(error)}") from error
    try:
        return model.model_validate({} if values is None else values)
    except ValidationError as error:
        raise ValueError("\n".join(error_lines(error, where, model))) from error


def error_lines(
    error: ValidationError, where: str, model: type[BaseModel], *, inside: tuple[str, ...] = ()
) -> list[str]:
    """What pydantic found wrong, a line for each; `inside` leads to the fields where `model` is part of another."""
    return [f"{where}: {_problem(found, model, inside)}" for found in error.errors(include_url=False)]


def one_line(text: object) -> str:
    return " ".join(str(text).split())


class _OnceLoader(yaml.SafeLoader):
    """A safe loader that refuses what YAML's own takes: a name twice in a mapping, and half a character."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        try:
            if isinstance(node, yaml.ScalarNode):
                node.value.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(node.value[error.start]):04x}"
            problem = f"{code} is half a surrogate pair, no character; take it away"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"{key.value!r} stands there twice; keep one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(found: Any, model: type[BaseModel], inside: tuple[str, ...]) -> str:
    field = _spelled((*inside, *found["loc"]))
    match found["type"]:
        case "extra_forbidden":
            return f"{field} is not known here; there are {', '.join(_known_fields(model, found['loc'][:-1]))}"
        case "missing":
            return f"{field} is missing; give it"
        case "value_error":
            text = one_line(found["ctx"]["error"])
            return f"{field}: {text}" if field else text
        case "model_type" | "dict_type":
            return f"{field or 'it'} is {_shown(found['input'])}; it must be a mapping of names to values"
    text = re.sub(r"^\w+ should ", "must ", one_line(found["msg"])) + _ADVICE.get(found["type"], "")
    return f"{field}={_shown(found['input'])}: {text}"


def _spelled(path: Iterable[str | int]) -> str:
    """A path such as `shapes.rank[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _known_fields(model: Any, path: Iterable[str | int]) -> list[str]:
    """The fields of the model that a path leads to, through models, and collections and unions of them."""
    for part in path:
        model = _without_union(model)
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        model = model.model_fields[str(part)].annotation if is_model else next(filter(_has_model, get_args(model)))
    return list(_without_union(model).model_fields)


def _without_union(annotation: Any) -> Any:
    return next(filter(_has_model, get_args(annotation))) if get_origin(annotation) is UnionType else annotation


def _has_model(annotation: Any) -> bool:
    """Whether it is a model, or a collection or union of some."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(_has_model, get_args(annotation)))


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not write out integers of more than 4,300 digits
        return "a number of more than 4,300 digits"
