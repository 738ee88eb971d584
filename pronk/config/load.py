"""YAML file and `--set` overrides → validated `Experiment`, with errors that say what to do."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pronk.config.experiment import Experiment
from pronk.config.explain import explain
from pronk.config.fields import Free
from pronk.config.reader import DEEPEST, read
from pronk.errors import Misconfigured


class ConfigError(Misconfigured):
    """An experiment that cannot be used; the message is one line for a person."""


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        path: a YAML file.
        overrides: `a.b=value` each, the value in YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, an impossible value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise ConfigError(f"cannot read experiment {path}: {reason}") from None
    return parse(text, overrides, source=str(path))


def parse(text: str, overrides: Sequence[str] = (), *, source: str = "experiment") -> Experiment:
    """Read an experiment from YAML text; see `load`."""
    try:
        data = read(text)
    except ValueError as error:
        raise ConfigError(f"{source} is not an experiment in YAML: {error}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{source}: expected an experiment (name, env, …), found {found}")
    # An id first: what else is set belongs to it.
    for override in sorted(overrides, key=lambda text: ".id=" not in text):
        _apply(data, override)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, Experiment)}") from None


def dump(experiment: Experiment) -> str:
    """The whole experiment as YAML, defaults included."""
    data = experiment.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def experiment_hash(experiment: Experiment) -> str:
    """Hex SHA-256 (16 digits) of everything that may not change on resume."""
    fixed = _fixed(experiment)
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def fixed_keys(model: type[BaseModel] = Experiment, prefix: str = "") -> dict[str, bool]:
    """Every leaf key of the schema, and whether it may change on resume."""
    keys: dict[str, bool] = {}
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys |= fixed_keys(info.annotation, f"{key}.")
        else:
            keys[key] = any(isinstance(mark, Free) for mark in info.metadata)
    return keys


def _fixed(section: BaseModel) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        if any(isinstance(mark, Free) for mark in info.metadata):
            continue
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            values[name] = _fixed(value)
        else:
            values[name] = section.model_dump(mode="json", include={name})[name]
    return values


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, for example env.id=Acrobot-v1")
    if len(path) > DEEPEST:
        raise ConfigError(f"--set {override}: nested more than {DEEPEST} deep")
    section = data
    for part in path[:-1]:
        child = section.setdefault(part, {})
        if child is None:
            child = section[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
        section = child
    try:
        new = read(value)
    except ValueError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from None
    if path[-1] == "id" and new != section.get("id"):
        # They belonged to the other environment or network.
        for own in ("kwargs", "wrappers"):
            section.pop(own, None)
    section[path[-1]] = new
