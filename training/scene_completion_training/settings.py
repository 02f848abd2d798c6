"""Settings: dataclasses made of what a YAML file, a KEY=VALUE or a checkpoint says.

Each value is compared with the type of its field: nothing in it names code. All is read by `untrusted_files.py`, also a
section that stands in a file of its own.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import JsonObject, parse_yaml, read_yaml, shown

Kind = TypeVar("Kind")
CURE = "Correct it, or the KEY=VALUE that sets it"


def read_settings(path: Path, kind: type) -> dict[str, Any]:
    """Reads a YAML file of the settings of a dataclass.

    Where a file name stands for a section, the section is read from that file, relative to this one. Raises
    ConfigurationError where a file cannot be read or holds no mapping.
    """
    cure = "Name a YAML file of settings, or give them in place of its name"
    return dict(_with_sections(read_yaml(path, ConfigurationError, cure=cure, kind=dict), kind, path.parent))


def override(settings: Mapping[str, Any], kind: type, given: str) -> dict[str, Any]:
    """Settings of a dataclass with what KEY=VALUE sets; of a section, what it does not name stays.

    VALUE is YAML, or text where the field holds text; a file of a section is relative to the working directory. Raises
    ConfigurationError where it cannot be read.
    """
    key, equals, text = given.partition("=")
    if not equals:
        raise ConfigurationError(f"{shown(given)} is no KEY=VALUE", where="configuration", cure=CURE)
    names, held, optional = key.split("."), kind, False
    for name in names:
        held, optional = _held(_types(held).get(name))
    as_text = (held is str or get_origin(held) is Literal) and not (optional and text == "null")
    value: Any = text if as_text else parse_yaml(text, ConfigurationError, where=shown(given), cure=CURE)
    value = _with_sections(value, held, Path())
    for name in reversed(names):
        value = {name: value}
    return dict(_merged(settings, value))


def made(kind: type[Kind], settings: JsonObject, usual: Kind | None = None) -> Kind:
    """Makes a dataclass of settings, and of `usual` what these leave out, or of the defaults of its fields.

    Raises the error of `settings`, with the name of a field, where there is none or its value is of another type.
    """
    types, values = _types(kind), {}
    settings.only(list(types))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        default = default if usual is None else getattr(usual, field.name)
        if field.name in settings.values or default is dataclasses.MISSING:
            values[field.name] = _value(types[field.name], settings, field.name, default)
    return kind(**values) if usual is None else dataclasses.replace(usual, **values)  # type: ignore[type-var]


def _value(hint: Any, settings: JsonObject, name: str, default: Any = None) -> Any:
    """The value of a field, of the type that it has."""
    (kind, optional), value = _held(hint), settings.values.get(name)
    origin, options = get_origin(kind), get_args(kind)
    if optional and value is None:
        return None
    if _types(kind):
        return made(kind, settings.object(name), default if isinstance(default, kind) else None)
    if origin is Literal:
        if value not in options:
            raise settings.error(name, f"{shown(value)} is none of {', '.join(map(repr, options))}")
        return value
    if origin in (list, tuple):
        fixed = origin is tuple and ... not in options
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(options)):
            raise settings.error(name, f"{shown(value)} is not a list{f' of {len(options)} values' if fixed else ''}")
        items = settings.items(name, value)
        kinds = options if fixed else options[:1] * len(value)
        return origin(_value(one, items, place) for one, place in zip(kinds, items.values, strict=True))
    return {str: settings.text, bool: settings.flag, int: settings.integer, float: settings.number}[kind](name)


def _with_sections(value: Any, kind: Any, folder: Path) -> Any:
    """A value of some type, with what the files say that its sections name."""
    types = _types(kind)
    if types and isinstance(value, str):
        return read_settings(folder / value, kind)
    if not types or not isinstance(value, dict):
        return value
    return {name: _with_sections(one, _held(types.get(name))[0], folder) for name, one in value.items()}


def _merged(settings: Any, further: Any) -> Any:
    if not isinstance(settings, Mapping) or not isinstance(further, Mapping):
        return further
    return {**settings, **{name: _merged(settings.get(name), value) for name, value in further.items()}}


def _types(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a dataclass; empty for any other type."""
    if not dataclasses.is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _held(hint: Any) -> tuple[Any, bool]:
    """A type without None, and whether that was in it."""
    others = [option for option in get_args(hint) if option is not NoneType]
    optional = NoneType in get_args(hint)
    return (others[0] if optional else hint), optional
