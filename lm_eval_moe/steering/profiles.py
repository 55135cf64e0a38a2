"""Routing profiles as selection rules see them: read once, checked against the model, and named for provenance."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.checked_fields import Place, show
from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import SELECTION, Identity
from lm_eval_moe.profile_file import ProfileHeader, ProfileItem, open_profile
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering._count_dump import DumpError, read_count_dump
from lm_eval_moe.steering.layers import format_ranges

__all__ = ["Activity", "Profile", "ProfilePath", "ProfileSource", "ProfileStore"]

MAX_JSON_BYTES = 200_000_000


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
    place: Place = field(compare=False, repr=False)

    def error(self, problem: str, fix: str) -> UserError:
        """Return the error to raise for this file; ``problem`` goes on from its name."""
        return self.place.error(f"{show(self.given)} {problem}", fix)


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


@dataclass(frozen=True)
class Activity:
    """How often every expert is selected.

    Attributes:
        mean: ``[L, E]`` mean over items of the activation frequency a_k / T; of pooled counts there is one item.
        pooled: ``[L, E]`` activation counts of all items over their tokens.
        items: How many items have tokens.
    """

    mean: NDArray[np.float64]
    pooled: NDArray[np.float64]
    items: int


class Profile:
    """One file.

    Attributes:
        source: What it is.
        items: One a row; a file of pooled counts has one row that says nothing of itself.
    """

    def __init__(self, source: ProfileSource, items: tuple[ProfileItem, ...], counts: Activity | None = None) -> None:
        self.source, self.items = source, items
        self._read: dict[tuple[int, ...], Activity] = {} if counts is None else {(0,): counts}

    def languages(self) -> dict[str, int]:
        """Return how many items there are in every language; that of an unlabelled one is empty."""
        return dict(sorted(Counter(item.language for item in self.items).items()))

    def activity(self, rows: Iterable[int], given: ProfilePath) -> Activity:
        """Return how often experts are selected in some rows; their order makes no difference, to the last bit.

        Raises:
            UserError: The file has no counts, they are damaged, or there are no tokens.
        """
        key = tuple(sorted(rows))
        if key not in self._read:
            self._read[key] = self._count(key, given)
        return self._read[key]

    def _count(self, rows: tuple[int, ...], given: ProfilePath) -> Activity:
        with _named(given), open_profile(self.source.path) as profile:
            shape = (len(profile.header.shape.layers), profile.header.shape.experts)
            lengths = profile.tokens()
            total = np.zeros(shape, dtype=np.int64)
            sum_of_means = np.zeros(shape)
            # Items of equal length are added up as integers and the sums by ascending length: no order enters.
            for length in np.unique(lengths[list(rows)]):
                same = [row for row in rows if lengths[row] == length]
                counted = np.zeros(shape, dtype=np.int64)
                for counts in profile.rows("counts", same):
                    if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any() or (counts > length).any():
                        raise given.error(
                            f"is a damaged profile: an item has activation counts outside 0 to its {length} tokens",
                            "write it anew with --routing_profile",
                        )
                    counted += counts
                if length:
                    total += counted
                    sum_of_means += counted / length
        items = int(np.count_nonzero(lengths[list(rows)]))
        if not items:
            raise given.error("holds no tokens", "give the profile of at least one token")
        return Activity(sum_of_means / items, total / lengths[list(rows)].sum(), items)


class ProfileStore:
    """The profiles of one model: each file is read and checked once, however many rules name it.

    Attributes:
        shape: The model's routing shape, which every profile must have.
    """

    def __init__(self, shape: RoutingShape) -> None:
        self.shape = shape
        self._read: dict[Path, Profile] = {}
        self._used: dict[Path, Profile] = {}

    def reusing(self) -> ProfileStore:
        """Return a store that shares what has been read, but has used nothing yet."""
        store = ProfileStore(self.shape)
        store._read = self._read
        return store

    @property
    def used(self) -> tuple[ProfileSource, ...]:
        """The files that were asked for, in the order in which they first were."""
        return tuple(profile.source for profile in self._used.values())

    def load(self, given: ProfilePath) -> Profile:
        """Return a profile.

        Raises:
            UserError: The file cannot be read, is damaged, or is of another model than this one or than the profiles
                before it.
        """
        path = given.path.resolve()
        if path not in self._read:
            self._read[path] = self._read_json(given) if given.path.suffix == ".json" else self._read_profile(given)
        profile = self._read[path]
        for other in self._used.values():
            stranger = profile.source.differs_from(other.source.model, other.source.identity)
            if stranger:
                raise given.error(
                    f"is a profile of another model than {show(other.source.given)}: {stranger}",
                    "give profiles of one model, the one to steer",
                )
        self._used[path] = profile
        return profile

    def _read_json(self, given: ProfilePath) -> Profile:
        try:
            size = given.path.stat().st_size
            data = given.path.read_bytes() if size <= MAX_JSON_BYTES else b""
        except OSError as error:
            raise given.error(f"cannot be read: {error.strerror or error}", "give the path of a profile") from error
        if size > MAX_JSON_BYTES:
            raise given.error(f"is {size / 1e6:.0f} MB large", f"give counts of at most {MAX_JSON_BYTES / 1e6:.0f} MB")
        try:
            counts, tokens = read_count_dump(data, self.shape)
        except DumpError as error:
            raise given.error(error.problem, error.fix) from error
        digest = hashlib.sha256(data).hexdigest()
        source = ProfileSource(given.given, given.path, digest, None, None, None, None)
        frequencies = counts / tokens[:, None]
        return Profile(source, (ProfileItem("", "", "", ""),), Activity(frequencies, frequencies, 1))

    def _read_profile(self, given: ProfilePath) -> Profile:
        with _named(given):
            with given.path.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
            with open_profile(given.path) as profile:
                header, items, arrays = profile.header, profile.items, profile.arrays
        self._check(header, given)
        missing = [name for name in ("counts", "tokens") if name not in arrays]
        if missing:
            raise given.error(
                f"holds no activation counts (it has no array {missing[0]!r})", "write it anew with --routing_profile"
            )
        if not items:
            raise given.error("holds no items", "give a profile of at least one item")
        head = (header.model, header.span, header.steering, len(items), header.identity)
        return Profile(ProfileSource(given.given, given.path, digest.hexdigest(), *head), items)

    def _check(self, header: ProfileHeader, given: ProfilePath) -> None:
        theirs, ours = header.shape, self.shape
        parts = (
            ("MoE layers", format_ranges(theirs.layers), format_ranges(ours.layers)),
            ("decoder layers", theirs.depth, ours.depth),
            ("experts", theirs.experts, ours.experts),
            ("top-k", theirs.top_k, ours.top_k),
        )
        other = [part for part in parts if part[1] != part[2]]
        if other:
            has, needs = (", ".join(f"{part[0]} {part[side]}" for part in other) for side in (1, 2))
            raise given.error(
                f"is a profile of a model of another shape, {header.model}: {has}; this model has {needs}",
                "give a profile of the model to steer",
            )


@contextmanager
def _named(given: ProfilePath) -> Iterator[None]:
    """Say where in the steering file a file stands that cannot be read."""
    try:
        yield
    except OSError as error:
        raise given.error(f"cannot be read: {error.strerror or error}", "give the path of a profile") from error
    except UserError as error:
        if error.where != str(given.path):
            raise
        raise given.error(error.problem, error.fix or "give another profile") from error
