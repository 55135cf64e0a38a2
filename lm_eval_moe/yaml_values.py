"""A value of a YAML file together with where it stands, and the checks that name both when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TypeVar

from lm_eval_moe.errors import UserError, did_you_mean

__all__ = ["YamlPlace", "YamlValue", "listing", "show"]

T = TypeVar("T", bound=str)


def show(value: object) -> str:
    """Describe a value in a few characters, as YAML would write it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Integral):
        return str(int(value)) if abs(int(value)) < 10**20 else "a huge integer"
    if isinstance(value, float | Real):
        return repr(float(value))
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "…")
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)} keys" if len(value) != 1 else "a mapping of one key"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def listing(names: Sequence[str]) -> str:
    """Join names as ``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass(frozen=True)
class YamlPlace:
    """A key path in a file.

    Attributes:
        source: The file, as the user named it.
        base_dir: The folder that relative paths in the file start from.
        path: Keys and list indices from the top.
        overridden: The paths that ``--set`` replaced or created: errors below them name the flag.
    """

    source: str
    base_dir: Path
    path: tuple[str, ...] = ()
    overridden: tuple[tuple[str, ...], ...] = ()

    def __truediv__(self, key: object) -> YamlPlace:
        segment = key[:60] if isinstance(key, str) else show(key)
        return replace(self, path=(*self.path, segment))

    @property
    def where(self) -> str:
        """The place as error messages name it: ``steer.yaml: interventions.0.layers``."""
        key = ".".join(self.path)
        if any(self.path[: len(root)] == root for root in self.overridden):
            return f"--set {key} (over {self.source})"
        return f"{self.source}: {key}" if key else self.source

    def error(self, problem: str, fix: str) -> UserError:
        """Return the error to raise for what stands here."""
        return UserError(problem, fix=fix, where=self.where)


@dataclass(frozen=True)
class YamlValue:
    """A value as read, not yet checked."""

    place: YamlPlace
    value: object

    def __truediv__(self, key: object) -> YamlPlace:
        return self.place / key

    def error(self, problem: str, fix: str) -> UserError:
        """Return the error to raise for this value."""
        return self.place.error(problem, fix)

    def mapping(self, like: str) -> dict[object, YamlValue]:
        """Return the entries of a mapping with free keys; ``like`` is an example for the error message."""
        if not isinstance(self.value, Mapping):
            raise self.error(f"expected a mapping, got {show(self.value)}", f"write it like {like}")
        return {key: YamlValue(self / key, value) for key, value in self.value.items()}

    def keys(self, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, YamlValue]:
        """Return the entries of a mapping whose keys are known.

        Raises:
            UserError: This is not a mapping, a key is unknown, or a required one is missing.
        """
        allowed = (*required, *optional)
        fields: dict[str, YamlValue] = {}
        for key, field in self.mapping(f"{{{required[0] if required else optional[0]}: …}}").items():
            if not isinstance(key, str) or key not in allowed:
                hint = did_you_mean(key, allowed) if isinstance(key, str) else ""
                raise field.error(f"unknown key {show(key)}{hint}", f"the keys allowed here are {', '.join(allowed)}")
            fields[key] = field
        for key in required:
            if key not in fields:
                raise self.error(
                    f"{key!r} is missing", f"add `{key}: …`; the keys allowed here are {', '.join(allowed)}"
                )
        return fields

    def variant(self, options: Sequence[str], noun: str, *, bare: bool) -> tuple[str, YamlValue]:
        """Return the one option that is chosen, and its value: ``{soft: 0.5}``, or if ``bare`` also ``activate``.

        Raises:
            UserError: None, several or unknown ones are given.
        """
        fix = f"give exactly one {noun}: {listing(options)}"
        if bare and isinstance(self.value, str):
            fields = {self.value: YamlValue(self.place, None)}
        elif isinstance(self.value, Mapping):
            fields = {key: YamlValue(self / key, value) for key, value in self.value.items()}
        else:
            raise self.error(f"expected one {noun}, got {show(self.value)}", fix)
        for key, field in fields.items():
            if not isinstance(key, str) or key not in options:
                raise field.error(f"unknown {noun} {show(key)}{did_you_mean(key, options)}", fix)
        if len(fields) != 1:
            count = f"{len(fields)} given ({', '.join(fields)})" if fields else "none given"
            raise self.error(f"expected one {noun}, {count}", fix)
        return next(iter(fields.items()))

    def items(self, like: str) -> list[YamlValue]:
        """Return the entries of a list; ``like`` is an example for the error message."""
        if not isinstance(self.value, Sequence) or isinstance(self.value, str | bytes | bytearray):
            raise self.error(f"expected a list, got {show(self.value)}", f"write it like {like}")
        return [YamlValue(self / index, value) for index, value in enumerate(self.value)]

    def integer(self, low: int, high: int) -> int:
        """Return an integer of ``low`` to ``high``, both included."""
        value = None if isinstance(self.value, bool) else self.value
        if isinstance(value, int | Integral) and low <= int(value) <= high:
            return int(value)
        raise self.error(f"expected an integer, got {show(self.value)}", f"give an integer from {low} to {high}")

    def number(self, low: float, high: float) -> float:
        """Return a finite number of ``low`` to ``high``, both included; never ``-0.0``."""
        value = None if isinstance(self.value, bool) else self.value
        if isinstance(value, int | Integral) and abs(int(value)) > 2**63:
            value = None  # too large for a float, and for any use
        if isinstance(value, int | float | Real) and low <= float(value) <= high:
            return float(value) + 0.0
        raise self.error(f"expected a number, got {show(self.value)}", f"give a number from {low:g} to {high:g}")

    def text(self, *, empty: bool = True) -> str:
        """Return a string that UTF-8 can hold."""
        if not isinstance(self.value, str):
            raise self.error(
                f"expected text, got {show(self.value)}", "give a string, in quotes if it looks like a number"
            )
        if not empty and not self.value.strip():
            raise self.error("is blank", "give it some text")
        try:
            self.value.encode()
        except UnicodeEncodeError as error:
            raise self.error("holds characters that are not text (lone surrogates)", "remove them") from error
        return self.value

    def words(self) -> str:
        """Return a string that is not blank, without space around it."""
        return self.text(empty=False).strip()

    def version(self, supported: int) -> int:
        """Return the version of the file's schema, which has to be the one that this release knows."""
        version = self.integer(0, 1_000_000)
        if version != supported:
            raise self.error(f"unknown version: {version}", f"this release reads version: {supported}")
        return version

    def flag(self) -> bool:
        """Return a boolean."""
        if not isinstance(self.value, bool):
            raise self.error(f"expected true or false, got {show(self.value)}", "write true or false")
        return self.value

    def choice(self, options: Sequence[T]) -> T:
        """Return the one of ``options`` that is given."""
        for option in options:
            if isinstance(self.value, str) and option == self.value:
                return option
        hint = did_you_mean(self.value, options) if isinstance(self.value, str) else ""
        raise self.error(f"unknown value: {show(self.value)}{hint}", f"write {listing(options)}")
