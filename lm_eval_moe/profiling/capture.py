"""Capture the routing of documents, a few at a time, into one profile per language."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.evaluation.identity import prompting_parts
from lm_eval_moe.identity import CONTINUATION, Identity, check_agreement, setting_differences
from lm_eval_moe.profiles import (
    EXTRA_ARRAYS,
    PROFILE_ARRAYS,
    ProfileHeader,
    ProfileItem,
    read_profile,
    write_profile,
)
from lm_eval_moe.profiles.unfinished import (
    Unfinished,
    forget_unfinished,
    read_unfinished,
    refuse_older,
    unfinished_path,
)
from lm_eval_moe.profiling.documents import Document, Source
from lm_eval_moe.profiling.prompting import Prompting
from lm_eval_moe.profiling.writers import Pace, ProfileWriter, RowsWriter, SumsWriter
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.recording.profile_rows import PooledRow
from lm_eval_moe.text_hash import text_hash

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["CaptureOptions", "ProfileJob", "planned"]

_COMPARED = ("language", "source", "span", "limit", "aggregate", "arrays")
"""The settings that must be the same; the others are there to be read, and the identity holds what counts of them."""


@dataclass(frozen=True)
class CaptureOptions:
    """How to capture.

    Attributes:
        limit: Documents of a source at most.
        aggregate: Whether all documents of a language are pooled in one row.
        restart: Whether what is there already is replaced.
        save_every: Seconds between two savings of an unfinished profile. Of rows that are not pooled, those of every
            chunk of documents are saved; they then wait for the disk.
        arrays: Which extra arrays the profile should hold.
        prompting: How the documents are put to the model; they have been already, and the profile says so.
    """

    limit: int | None = None
    aggregate: bool = False
    restart: bool = False
    save_every: float = 60.0
    arrays: tuple[str, ...] = ()
    prompting: Prompting = field(default_factory=Prompting)


def planned(lm: RoutedModel, sources: Iterable[Source], folder: Path, options: CaptureOptions) -> list[ProfileJob]:
    """Return one job a language, having looked at what is there already for all of them.

    Raises:
        UserError: Files of other settings are there, and must not be replaced.
    """
    identity = lm.identity()
    return [ProfileJob(lm, source, folder / f"{source.language}.safetensors", options, identity) for source in sources]


class ProfileJob:
    """The profile of one language: not begun, begun or finished.

    Args:
        lm: The model.
        source: The documents.
        path: Where the profile will lie.
        options: How to capture.
        identity: The model's.

    Attributes:
        finished: Whether the profile is there.
        done: Documents taken so far.

    Raises:
        UserError: There is something else at the path, or a profile that was begun with other settings or by an older
            version.
    """

    def __init__(
        self, lm: RoutedModel, source: Source, path: Path, options: CaptureOptions, identity: Identity
    ) -> None:
        self.lm, self.source, self.path, self.options = lm, source, path, options
        self.settings = self._settings()
        arrays = sorted((*PROFILE_ARRAYS, *options.arrays))
        parts = {**prompting_parts(lm, {"limit": options.limit, **vars(options.prompting)}), "capture.arrays": arrays}
        self.identity = identity.with_parts(parts, source.parts)
        self._state = Unfinished(self.settings, self.identity)
        if lm.coverage is not None and not lm.coverage.reaches(source.language):
            self._warn_of_no_reach()
        self.finished = not options.restart and path.exists()
        if self.finished:
            self._refuse_unlike()
            forget_unfinished(path)  # left by a process that was killed just after it had written the profile
        elif not options.restart:
            refuse_older(path)
            if (side := unfinished_path(path)).exists():
                self._state = read_unfinished(side)
                self._refuse_other(self._state.settings, self._state.identity, side)
        self.done = self._state.done

    def run(self, progress: Callable[[int], object] = lambda count: None) -> tuple[int, int]:
        """Capture what is left and write the profile; return its rows and tokens.

        Args:
            progress: Is called with the number of documents taken.

        Raises:
            UserError: The profile cannot be written, or no document has tokens in the span.

        Warns where steering acted at none of the tokens.
        """
        lm, steered = self.lm, self._state.steered
        if self.options.restart:
            forget_unfinished(self.path)
        documents = islice(self.source.documents(), self.done, None)
        with closing(self._growing()) as growing:
            while chunk := list(islice(documents, lm.rows_at_once)):
                steered += self._capture(chunk, growing)
                self.done += len(chunk)
                progress(len(chunk))
                growing.save(self.done, steered)
            if lm.coverage is not None and lm.coverage.reaches(self.source.language) and not steered:
                self._warn_of_no_reach()
            content = growing.content()
            if content.tokens:
                write_profile(self.path, self._header(), content.items, content.arrays)
        forget_unfinished(self.path)
        if not content.tokens:
            raise UserError(
                f"none of the documents in {self.source.language!r} has a token in the span {lm.capture!r}",
                fix="choose another --span",
                where=str(self.path),
            )
        self.finished = True
        return len(content.items), content.tokens

    def _settings(self) -> dict[str, Any]:
        """Return how the profile is made, JSON-ready; besides the identity it is the profile's provenance."""
        lm, options = self.lm, self.options
        settings = {
            "language": self.source.language,
            "source": self.source.describe(),
            "span": lm.capture,
            "limit": options.limit,
            "aggregate": options.aggregate,
            "steering": {"name": lm.steering.name, "hash": lm.steering.hash} if lm.steering else None,
            **({"arrays": sorted(options.arrays)} if options.arrays else {}),
        }
        return dict(json.loads(json.dumps(settings)))

    def _warn_of_no_reach(self) -> None:
        assert self.lm.coverage is not None
        text = self.lm.coverage.unreached(str(self.path), self.source.language)
        warnings.warn(text, RoutingWarning, stacklevel=2)

    def _capture(self, chunk: Sequence[Document], growing: ProfileWriter) -> int:
        """Add documents to what is there; return the (token, layer) pairs at which steering acted."""
        requests = [
            (RequestKey(document.task, number, 0), *tokens)
            for number, document in enumerate(chunk)
            for tokens in _passes(document, self.lm)
        ]
        arrays = frozenset(PROFILE_ARRAYS) | {EXTRA_ARRAYS[name] for name in self.options.arrays}
        languages = {document.task: self.source.language for document in chunk}
        with self.lm.capturing(CaptureRequest(arrays=arrays, languages=languages)) as captured:
            self.lm.score_tokens(requests)
        for number, document in enumerate(chunk):
            record = captured.record(RequestKey(document.task, number, 0))
            if record is not None and record.tokens:  # none in a span that the document does not have
                text = " ".join(document.hashes or (text_hash(document.text),))
                name = ProfileItem(document.benchmark, document.item, self.source.language, document.task, text)
                growing.add(name, record)
        return captured.steered_pairs.total()

    def _growing(self) -> ProfileWriter:
        """Return what documents are added to, with what is there of those taken so far."""
        state, self._state = self._state, Unfinished(self.settings, self.identity)
        path, options = unfinished_path(self.path), self.options
        pace = Pace(options.save_every)
        if not options.aggregate:
            return RowsWriter(path, state, pace, options.arrays)
        benchmark, task = ", ".join(self.source.benchmarks), ", ".join(self.source.tasks)
        name = ProfileItem(benchmark, "", self.source.language, task)
        return SumsWriter(path, state, pace, PooledRow(self.lm.routing_shape, name, options.arrays))

    def _header(self) -> ProfileHeader:
        lm = self.lm
        steering = lm.steering.hash if lm.steering else None
        return ProfileHeader(lm.model_id, lm.routing_shape, lm.capture, steering, self.settings, self.identity)

    def _refuse_unlike(self) -> None:
        header = read_profile(self.path).header
        if header.provenance is None:
            raise UserError(
                "already exists, and does not say how it was made",
                fix="choose another --output, or replace it with --restart",
                where=str(self.path),
            )
        self._refuse_other(header.provenance, header.identity, self.path)

    def _refuse_other(self, settings: Mapping[str, Any], identity: Identity | None, path: Path) -> None:
        fix = "give the same ones, choose another --output, or start over with --restart"
        differences = setting_differences(settings, self.settings, _COMPARED)
        if differences:
            raise UserError(
                f"already exists with different settings: {'; '.join(differences)}", fix=fix, where=str(path)
            )
        check_agreement(identity, self.identity, CONTINUATION, what="the existing profile", where=str(path), fix=fix)


def _passes(document: Document, lm: RoutedModel) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the token requests of a document: what counts as its prompt, and what follows.

    The model is never given the last token of a request, so a text is followed by any one token.
    """
    if document.continuation is not None:
        if document.text:
            yield lm.encode_pair(document.text, document.continuation)
        else:
            tokens = lm.tok_encode(document.continuation, add_special_tokens=False)
            prefix = lm.prefix_token_id
            yield ([prefix], tokens) if tokens[0] != prefix else (tokens[:1], tokens[1:])
        return
    tokens = lm.tok_encode(document.text)
    longest = int(lm.max_length)
    if not document.windowed:
        tokens = tokens[-longest:]
    for start in range(0, len(tokens), longest):
        window = tokens[start : start + longest]
        yield window, window[-1:]
