"""Lists the settings as declared in `settings`, to read, check, show and document them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from greenscale_worker.config.rules import OR_NOTHING, Rule
from greenscale_worker.config.settings import SECTIONS


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `names` are its environment variables, the first of which is its name for people."""

    field: str
    names: tuple[str, ...]
    section: str
    info: FieldInfo

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.names[0]

    @property
    def secret(self) -> bool:
        """Whether its value is hidden, and may come from a file."""
        return any(isinstance(kind, type) and issubclass(kind, SecretStr) for kind in self._kinds)

    @property
    def may_be_empty(self) -> bool:
        """Whether an empty value has a meaning; otherwise it counts as not set."""
        return OR_NOTHING in self.info.metadata or any(rule.holds("") for rule in self._of(Rule))

    @property
    def accepts(self) -> str:
        """What a value must be, in words."""
        for rule in self._of(Rule):
            return str(rule.accepts)
        if self._choices:
            return ", ".join(self._choices[:-1]) + " or " * (len(self._choices) > 1) + self._choices[-1]
        if bool in self._kinds:
            return "true or false"
        if not {int, float} & set(self._kinds):
            return "any text"
        number = "a whole number" if int in self._kinds else "a number"
        least, most = next(self._of(Ge)).ge, next((limit.le for limit in self._of(Le)), None)
        range_ = f"not below {least}" if most is None else f"from {least} to {most}"
        return f"{number} {range_}" + (", or nothing" if self.may_be_empty else "")

    @property
    def _choices(self) -> tuple[str, ...]:
        return get_args(self.info.annotation) if get_origin(self.info.annotation) is Literal else ()

    @property
    def _kinds(self) -> tuple[Any, ...]:
        """The types that are accepted."""
        return () if self._choices else get_args(self.info.annotation) or (self.info.annotation,)

    def _of(self, kind: type) -> Iterator[Any]:
        return (each for each in self.info.metadata if isinstance(each, kind))


@cache
def catalogue() -> tuple[Setting, ...]:
    """Return all settings, in the order in which they are declared."""
    return tuple(
        Setting(field, _names(info), (section.__doc__ or "").rstrip("."), info)
        for section in SECTIONS
        for field, info in section.model_fields.items()
    )


def name_of(field: str) -> str:
    """Return the name, for people, of the setting of a field."""
    return next(setting.name for setting in catalogue() if setting.field == field)


def _names(info: FieldInfo) -> tuple[str, ...]:
    alias = info.validation_alias
    return tuple(str(choice) for choice in alias.choices) if isinstance(alias, AliasChoices) else (str(alias),)
