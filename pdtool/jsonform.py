"""Frozen dataclasses to JSON and back, strictly.

A document read here is either exactly the dataclass (every field, nothing else, right types, finite
numbers) or an InputError that names file and field. Supported types: str, int, float, bool, None, Literal,
`X | None`, tuple[X, ...], dict[str, X], nested dataclasses, and `JsonValue` for free-form values.
"""

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar, Union

from pdtool.errors import InputError

__all__ = ["JsonValue", "canonical", "decode", "encode", "parse"]

JsonValue = Any
T = TypeVar("T")


def encode(value: object) -> JsonValue:
    """A dataclass (or a container of them) as plain JSON values; a class's `FORMAT` comes first as "format"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        document: dict[str, JsonValue] = {}
        if hasattr(value, "FORMAT"):
            document["format"] = value.FORMAT
        for field in dataclasses.fields(value):
            document[field.name] = encode(getattr(value, field.name))
        return document
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def canonical(document: JsonValue) -> bytes:
    """The one byte string of a document (UTF-8, sorted keys, no spaces): what digests are taken of."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def parse(data: bytes, *, file: str) -> dict[str, JsonValue]:
    """JSON bytes to an object. Raises InputError for bad UTF-8, bad JSON, a repeated key, NaN or no object."""

    def unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{file}: field {repeated!r} is given twice; each field may appear once")
        return dict(pairs)

    def refuse(constant: str) -> JsonValue:
        raise InputError(f"{file}: {constant} is not a number that JSON allows")

    try:
        document = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); write the file again with pdtool") from None
    if not isinstance(document, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(document).__name__}")
    return document


def decode(cls: type[T], document: JsonValue, *, file: str) -> T:
    """A parsed document as `cls`. Raises InputError naming file and field for anything that does not fit."""
    return typing.cast(T, _decode(cls, document, file, ""))


def _decode(kind: Any, value: JsonValue, file: str, where: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _decode(inner, value, file, where)
    if origin is Literal:
        if value not in arguments:
            raise _wrong(file, where, "one of " + ", ".join(map(repr, arguments)), value)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(file, where, "a list", value)
        return tuple(_decode(arguments[0], item, file, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(file, where, "an object", value)
        return {key: _decode(arguments[1], item, file, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, file, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(file, where, kind.__name__, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(file, where, "a finite number", value)
    return value


def _decode_dataclass(kind: Any, value: JsonValue, file: str, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(file, where, "an object", value)
    value = dict(value)
    if hasattr(kind, "FORMAT"):
        came = value.pop("format", None)
        if came != kind.FORMAT:
            raise InputError(
                f"{file}: field 'format' is {came!r}, this pdtool reads {kind.FORMAT!r}; use the pdtool that wrote it"
            )
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    known = {field.name for field in dataclasses.fields(kind)}
    for name in value:
        if name not in known:
            raise InputError(f"{file}: unknown field {prefix + name!r}; this pdtool does not know what it means")
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name not in value:
            if field.default is not dataclasses.MISSING:
                continue  # a file of an earlier version: what came later has a default that says the same
            raise InputError(f"{file}: field {prefix + field.name!r} is missing")
        fields[field.name] = _decode(hints[field.name], value[field.name], file, prefix + field.name)
    try:
        return kind(**fields)
    except ValueError as error:
        raise InputError(f"{file}: {prefix.rstrip('.') or kind.__name__}: {error}") from None


def _wrong(file: str, where: str, expected: str, came: JsonValue) -> InputError:
    shown = json.dumps(came, default=str)
    return InputError(f"{file}: field {where!r} should be {expected}, is {shown[:80]}")
