"""Frozen settings: classes of fields with their values."""

import dataclasses
from typing import Any, Self

KINDS: dict[str, type[Any]] = {}  # the classes of settings, by name


class Plan:
    """Settings. A subclass becomes a frozen data class whose fields are given by name."""

    def __init_subclass__(cls) -> None:
        KINDS[cls.__name__] = dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def replace(self, **fields: Any) -> Self:
        """A copy with changes."""
        return dataclasses.replace(self, **fields)  # type: ignore[type-var]


def to_json(value: Any) -> Any:
    """Settings as JSON data; each names its class."""
    if isinstance(value, Plan):
        return {"class": type(value).__name__, **{k: to_json(v) for k, v in value.__dict__.items()}}
    return [to_json(item) for item in value] if isinstance(value, tuple) else value


def from_json(data: Any) -> Any:
    """The settings that `to_json` wrote; those it leaves out have their defaults."""
    if isinstance(data, dict):
        fields = {name: from_json(value) for name, value in data.items()}
        return KINDS[fields.pop("class")](**fields)
    return tuple(map(from_json, data)) if isinstance(data, list) else data
