"""Capture the routing of documents, a few at a time, into one profile a language."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.capture import RequestKey
from lm_eval_moe.capture.profile_rows import ItemRows, PooledRow, Rows
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
from lm_eval_moe.profiles.unfinished import Unfinished, read_unfinished, unfinished_path, write_unfinished
from lm_eval_moe.profiling.documents import Document, Source
from lm_eval_moe.text_hash import text_hash

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["Options", "ProfileJob", "planned"]

_SAVING_SHARE = 20
"""Saving takes at most about one part in so many of the time, however large the side file has become."""


_COMPARED = ("language", "source", "span", "limit", "aggregate", "arrays")
"""The settings that must be the same; the others are there to be read, and the identity holds what counts of them."""


@dataclass(frozen=True)
class Options:
    """How to capture.

    Attributes:
        limit: Documents of a source at most.
        aggregate: Whether all documents of a language are pooled in one row.
        restart: Whether what is there already is replaced.
        save_every: Seconds between two savings of an unfinished profile.
        arrays: Which extra arrays the profile shall hold.
    """

    limit: int | None = None
    aggregate: bool = False
    restart: bool = False
    save_every: float = 60.0
    arrays: tuple[str, ...] = ()


def planned(lm: RoutedModel, sources: Iterable[Source], folder: Path, options: Options) -> list[ProfileJob]:
    """Return one job a language, having looked at what is there already for all of them.

    Raises:
        UserError: Files of other settings are there, and shall not be replaced.
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
        UserError: There is something else at the path, or a profile that was begun with other settings.
    """

    def __init__(self, lm: RoutedModel, source: Source, path: Path, options: Options, identity: Identity) -> None:
        self.lm, self.source, self.path, self.options = lm, source, path, options
        self.settings = self._settings()
        arrays = sorted((*PROFILE_ARRAYS, *options.arrays))
        parts = {**prompting_parts(lm, {"limit": options.limit}), "capture.arrays": arrays}
        self.identity = identity.with_parts(parts, source.parts)
        self.done = 0
        self._rows: Rows = self._new_rows()
        self._side = unfinished_path(path)
        if lm.coverage is not None and not lm.coverage.reaches(source.language):
            self._warn_of_no_reach()
        self.finished = not options.restart and path.exists()
        if self.finished:
            self._refuse_unlike()
        if self._side.exists() and not options.restart and not self.finished:
            state = read_unfinished(self._side)
            self._refuse_other(state.settings, state.identity, self._side)
            self._rows.restore(state.items, state.arrays)
            self.done = state.done

    def run(self, progress: Callable[[int], object] = lambda count: None) -> tuple[int, int]:
        """Capture what is left and write the profile; return its rows and tokens.

        Args:
            progress: Is told how many documents were taken.

        Raises:
            UserError: The profile cannot be written, or no document has tokens in the span.

        Warns where steering acted at none of the tokens.
        """
        lm, steered = self.lm, 0
        saved, saving = time.monotonic(), 0.0
        documents = islice(self.source.documents(), self.done, None)
        while chunk := list(islice(documents, lm.rows_at_once)):
            steered += self._capture(chunk)
            self.done += len(chunk)
            progress(len(chunk))
            pause = max(self.options.save_every, _SAVING_SHARE * saving) if self.options.save_every else 0.0
            if time.monotonic() - saved >= pause:
                start = time.monotonic()
                write_unfinished(self._side, Unfinished(self.settings, self.identity, self.done, *self._rows.state()))
                saved = time.monotonic()
                saving = saved - start
        if lm.coverage is not None and lm.coverage.reaches(self.source.language) and not steered:
            self._warn_of_no_reach()
        return self._write()

    def _settings(self) -> dict[str, Any]:
        """Return how the profile is made, JSON-ready; beside the identity it is the profile's provenance."""
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

    def _capture(self, chunk: Sequence[Document]) -> int:
        """Add documents to the rows; return the (token, layer) pairs at which steering acted."""
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
                self._rows.add(name, record)
        return captured.steered_pairs.total()

    def _write(self) -> tuple[int, int]:
        items, arrays = self._rows.profile()
        tokens = int(arrays["tokens"].sum()) if items else 0
        if not tokens:
            raise UserError(
                f"none of the documents in {self.source.language!r} has a token in the span {self.lm.capture!r}",
                fix="choose another --span",
                where=str(self.path),
            )
        lm = self.lm
        steering = lm.steering.hash if lm.steering else None
        header = ProfileHeader(lm.model_id, lm.routing_shape, lm.capture, steering, self.settings, self.identity)
        write_profile(self.path, header, items, arrays)
        self._side.unlink(missing_ok=True)
        self.finished = True
        return len(items), tokens

    def _new_rows(self) -> Rows:
        if not self.options.aggregate:
            return ItemRows(self.options.arrays)
        benchmark, task = ", ".join(self.source.benchmarks), ", ".join(self.source.tasks)
        name = ProfileItem(benchmark, "", self.source.language, task)
        return PooledRow(self.lm.routing_shape, name, self.options.arrays)

    def _refuse_unlike(self) -> None:
        header = read_profile(self.path).header
        if header.provenance is None:
            raise UserError(
                "is there already, and does not say how it was made",
                fix="choose another --output, or replace it with --restart",
                where=str(self.path),
            )
        self._refuse_other(header.provenance, header.identity, self.path)

    def _refuse_other(self, settings: Mapping[str, Any], identity: Identity | None, path: Path) -> None:
        fix = "give the same ones, choose another --output, or start anew with --restart"
        other = setting_differences(settings, self.settings, _COMPARED)
        if other:
            raise UserError(f"is there already with other settings: {'; '.join(other)}", fix=fix, where=str(path))
        check_agreement(identity, self.identity, CONTINUATION, what="what is there already", where=str(path), fix=fix)


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
