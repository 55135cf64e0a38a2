"""The profiles that selection rules name: read once, checked against the model, and named for provenance."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.identity import SELECTION, Identity
from lm_eval_moe.profiles.files import read_profile
from lm_eval_moe.profiles.profile import Profile
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.yaml_values import YamlPlace, show

__all__ = ["ProfilePath", "ProfileSource", "ProfileStore"]


@dataclass(frozen=True)
class ProfilePath:
    """A routing profile in a steering file.

    Attributes:
        given: Its path as given.
        path: Where that is.
        place: The key that it stands under.
    """

    given: str
    path: Path
    place: YamlPlace = field(compare=False, repr=False)

    def error(self, problem: str, fix: str) -> UserError:
        """Return the error to raise for this file; ``problem`` goes on from its name."""
        return self.place.error(f"{show(self.given)} {problem}", fix)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let what is wrong with this file be said where it stands in the steering file."""
        try:
            yield
        except UserError as error:
            if error.where != str(self.path):
                raise
            raise self.error(error.problem, error.fix or "give another profile") from error


@dataclass(frozen=True)
class ProfileSource:
    """A file that experts were selected from.

    Attributes:
        given: Its path as the steering file gives it.
        path: Where that is.
        sha256: Of its bytes, in hexadecimal.
        model: The model that was profiled; ``None``, as the next two, where the file does not say.
        span: The tokens that were counted: ``prompt``, ``thinking``, ``continuation`` or ``all``.
        steering: The hash of the steering during the capture.
        items: How many items it holds; ``None`` for pooled counts.
        identity: What its routing depends on; ``None`` where the file does not say.
    """

    given: str
    path: Path
    sha256: str
    model: str | None
    span: str | None
    steering: str | None
    items: int | None
    identity: Identity | None = None

    @classmethod
    def of(cls, path: ProfilePath, profile: Profile) -> ProfileSource:
        """Return what is remembered of a profile."""
        head, items = profile.header, None if profile.is_dump else len(profile.items)
        return cls(path.given, path.path, profile.sha256, head.model, head.span, head.steering, items, head.identity)

    def to_dict(self) -> dict[str, Any]:
        """Return what the results say of it, JSON-ready; of the identity its hash."""
        return {"given": self.given, **self.said(), "identity": self.identity.hash if self.identity else None}

    def said(self) -> dict[str, Any]:
        """Return what is known of its content, JSON-ready, without where it lies."""
        return {name: getattr(self, name) for name in ("sha256", "model", "span", "steering", "items")}

    def differs_from(self, model: str | None, identity: Identity | None) -> str:
        """Say in what the profiled model is another one; empty where it is not, or where that cannot be told.

        Args:
            model: The other model's name, None where it is not known.
            identity: What is known of the other model.
        """
        if self.identity is not None and identity is not None:
            differences = self.identity.differences(identity, SELECTION.needed())
            return "; ".join(difference.say("{part} {old}, not {new}") for difference in differences)
        return f"{self.model}, not {model}" if None not in (self.model, model) and self.model != model else ""

    def mixed_with(self, identity: Identity | None) -> str:
        """Say that another backend made the profile than what it is used with; empty where that is not so."""
        return self.identity.mixed(identity) if self.identity is not None and identity is not None else ""


class ProfileStore:
    """The profiles of one model: each file is read and checked once, however many rules name it.

    Attributes:
        shape: The model's routing shape, which every profile must have.
    """

    def __init__(self, shape: RoutingShape) -> None:
        self.shape = shape
        self._read: dict[Path, Profile] = {}
        self._used: dict[Path, ProfileSource] = {}

    def reusing(self) -> ProfileStore:
        """Return a store that shares what has been read, but has used nothing yet."""
        store = ProfileStore(self.shape)
        store._read = self._read
        return store

    @property
    def used(self) -> tuple[ProfileSource, ...]:
        """The files that were asked for, in the order in which they first were."""
        return tuple(self._used.values())

    def load(self, profile_path: ProfilePath) -> Profile:
        """Return a profile.

        Raises:
            UserError: The file cannot be read, is damaged, or is of another model than this one or than the profiles
                before it.
        """
        path = profile_path.path.resolve()
        if path not in self._read:
            with profile_path.named():
                self._read[path] = self._checked(read_profile(profile_path.path, counts=True))
        profile = self._read[path]
        source = ProfileSource.of(profile_path, profile)
        for earlier_source in self._used.values():
            stranger = source.differs_from(earlier_source.model, earlier_source.identity)
            if stranger:
                raise profile_path.error(
                    f"is a profile of a different model from {show(earlier_source.given)}: {stranger}",
                    "give profiles of one model, the one to steer",
                )
            if path not in self._used and (mixed := source.mixed_with(earlier_source.identity)):
                warnings.warn(f"{profile_path.given} and {earlier_source.given}: {mixed}", RoutingWarning, stacklevel=2)
        self._used.setdefault(path, source)
        return profile

    def _checked(self, profile: Profile) -> Profile:
        fitted = profile.fit(self.shape)
        missing = [] if fitted.is_dump else [name for name in ("counts", "tokens") if name not in fitted.arrays]
        if missing:
            raise UserError(
                f"holds no activation counts (it has no array {missing[0]!r})",
                fix="write it again with --routing_profile",
                where=str(profile.path),
            )
        if not fitted.items:
            raise UserError("holds no items", fix="give a profile of at least one item", where=str(profile.path))
        return fitted
