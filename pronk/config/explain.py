"""What is wrong with an experiment, in one line that says what to do."""

import difflib
import typing
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Path = tuple[int | str, ...]

SYNONYMS = {
    "entropy_coef": "entropy_cost",
    "env_id": "id",
    "environment": "env",
    "ent_coef": "entropy_cost",
    "gamma": "discount",
    "grad_clip": "max_gradient_norm",
    "lr": "learning_rate",
    "max_grad_norm": "max_gradient_norm",
    "num_actors": "count",
    "num_envs": "slots",
    "num_workers": "count",
    "rollout_length": "unroll_length",
    "total_frames": "frames",
    "total_steps": "frames",
    "total_timesteps": "frames",
    "vf_coef": "value_cost",
}
"""What other systems call our keys: last part → ours."""


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """The worst of a validation's errors, and how many more there are."""
    errors = error.errors(include_url=False)
    # A misspelt key also leaves the right one missing: say the misspelling.
    first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{_describe(first, schema)}{more}"


def _describe(error: ErrorDetails, schema: type[BaseModel]) -> str:
    path = tuple(part for part in error["loc"] if part != "[key]")
    key = ".".join(str(part) for part in path)
    match error["type"]:
        case "extra_forbidden":
            near = suggest(path, schema)
            return f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
        case "missing":
            return f"{key} is missing"
        case "model_type" | "dict_type":
            return f"{key}: expected keys below it, found {_shown(error['input'])}"
        case "finite_number":
            return f"{key}: must be finite, found {error['input']}"
        case "int_parsing" | "int_parsing_size":  # text is refused before: it is 1e300, say
            message = "input should be a smaller integer"
        case "value_error":
            message = str(error["ctx"]["error"])
            if isinstance(error["input"], dict):  # of a section; it names its key itself
                return message if message.startswith(key) else f"{key}: {message}"
        case _:
            message = error["msg"].partition(",")[0]
            message = message[0].lower() + message[1:]
    return f"{key}: {message}, found {_shown(error['input'])}" if key else message


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def suggest(path: Path, schema: type[BaseModel]) -> str | None:
    """The known key that an unknown one most likely means."""
    *section, last = path
    leaf = str(last).lower().replace("-", "_")
    leaf = SYNONYMS.get(leaf, leaf)
    siblings = _fields(_model_at(tuple(section), schema))
    everywhere = list(_keys(schema))
    if leaf in siblings:
        return _join(section, leaf)
    for key in everywhere:
        if key.rpartition(".")[2] == leaf:
            return key
    if near := difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6):
        return _join(section, near[0])
    leaves = {key.rpartition(".")[2]: key for key in reversed(everywhere)}
    near = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)
    return leaves[near[0]] if near else None


def _join(section: list[int | str], leaf: str) -> str:
    return ".".join(str(part) for part in (*section, leaf))


def _model_at(path: Path, schema: type[BaseModel]) -> type[BaseModel]:
    """The model that describes the section at `path`, list indices and map names included."""
    model = schema
    for part in path:
        fields = _fields(model)
        if part in fields:
            model = next(_models(fields[str(part)]), model)
    return model


def _fields(model: type[BaseModel]) -> dict[str, object]:
    """Key → annotation."""
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Models inside an annotation such as `Model | None`, `dict[str, Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of plain sections, sections themselves included, outermost first."""
    fields = _fields(model)
    yield from (f"{prefix}{name}" for name in fields)
    for name, annotation in fields.items():
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _keys(annotation, f"{prefix}{name}.")
