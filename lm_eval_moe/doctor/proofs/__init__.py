"""One module for each proof; a new proof is one new module here."""

from __future__ import annotations

from lm_eval_moe.discovery import import_siblings

__all__: list[str] = []

import_siblings(__name__, __path__)
