"""Reading cluster.yml: text in, spec out, every problem with its line, column, path and a suggestion."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rpicluster.errors import SpecError
from rpicluster.model.spec import PATTERNS_IN_WORDS, ClusterSpec

Location = tuple[int | str, ...]
_MAX_BYTES = 1 << 20  # a thousand nodes fit in a tenth of this
# pydantic's kinds of error that are about Python, in the words of YAML.
_IN_WORDS = {
    "tuple_type": "a list is needed here, one `- ` a line",
    "model_type": "keys and values are needed here",
    "model_attributes_type": "keys and values are needed here",
    "dict_type": "keys and values are needed here",
    "string_type": "text is needed here",
    "int_type": "a whole number is needed here",
    "too_short": "the list is empty",
}


def parse_spec(text: str, filename: str = "cluster.yml") -> ClusterSpec:
    """Return the spec that `text` holds.

    Raises SpecError; its message has one line per problem, `file:line:col: path: problem`.
    """
    document = _load(text, filename)
    try:
        return ClusterSpec.model_validate(document)
    except ValidationError as error:
        found = error.errors()
        # A list whose items are wrong counts as empty for pydantic; only the items' own lines help.
        told = [p for p in found if p["type"] != "too_short" or not _has_inner(found, tuple(p["loc"]))]
        problems = [_describe(document, problem, filename) for problem in told]
        hints = [hint for _, hint in problems if hint]
        raise SpecError("\n".join(line for line, _ in problems), hint=hints[0] if hints else None) from error


def spec_json_schema() -> dict[str, Any]:
    """Return the JSON schema of cluster.yml, for editors and for `docs/reference`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ClusterSpec.model_json_schema()}


def _load(text: str, filename: str) -> Any:
    if len(text.encode()) > _MAX_BYTES:
        raise SpecError(f"{filename}:1:1: larger than 1 MiB, this cannot be a cluster.yml")
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        problem = (error.problem or error.context or "not YAML").strip().splitlines()[0]
        raise SpecError(f"{filename}:{place}: not valid YAML: {problem}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{filename}:1:1: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, Mapping):
        what = "empty" if document is None else "not a mapping of keys to values"
        raise SpecError(
            f"{filename}:1:1: the file is {what}", hint="run `rpicluster init` in a new folder for an example"
        )
    return document


def _has_inner(problems: Sequence[Any], loc: Location) -> bool:
    return any(len(p["loc"]) > len(loc) and tuple(p["loc"][: len(loc)]) == loc for p in problems)


def _describe(document: Any, problem: Any, filename: str) -> tuple[str, str | None]:
    loc: Location = tuple(problem["loc"])
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
    line, column = _position(document, loc)
    hint = None
    if problem["type"] == "extra_forbidden":
        text = "unknown key"
        close = difflib.get_close_matches(str(loc[-1]), _fields_beside(loc), n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else f"known keys: {', '.join(_fields_beside(loc))}"
    elif problem["type"] == "missing":
        text = "this key is missing"
    elif problem["type"] == "string_pattern_mismatch":
        pattern = problem["ctx"]["pattern"]
        text = f"{problem['input']!r} is not {PATTERNS_IN_WORDS.get(pattern, pattern)}"
    elif problem["type"] in _IN_WORDS:
        text = _IN_WORDS[problem["type"]]
    else:
        text = problem["msg"].removeprefix("Value error, ")
        text = text[0].lower() + text[1:]
    path = _dotted(loc)
    return f"{filename}:{line}:{column}: {path + ': ' if path else ''}{text}", hint


def _dotted(loc: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _position(document: Any, loc: Location) -> tuple[int, int]:
    """Return the 1-based line and column of the deepest part of `loc` that stands in the document."""
    line, column, here = 0, 0, document
    for part in loc:
        position: Any = None
        if isinstance(here, Mapping) and part in here:
            position = here.lc.key(part) if hasattr(here, "lc") else None
        elif (
            isinstance(here, Sequence)
            and not isinstance(here, str)
            and isinstance(part, int)
            and part < len(here)
        ):
            position = here.lc.item(part) if hasattr(here, "lc") else None
        else:
            break
        line, column = position or (line, column)
        here = here[part]
    return line + 1, column + 1


def _fields_beside(loc: Location) -> list[str]:
    """Return the keys that the model knows at the place of the last part of `loc`."""
    models: list[type[BaseModel]] = [ClusterSpec]
    for part in loc[:-1]:
        if isinstance(part, str):
            annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
            models = [found for annotation in annotations for found in _models_in(annotation)]
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
