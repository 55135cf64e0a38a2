"""Global PIQA, the parallel part: which of four solutions works (Chang et al. 2025, arXiv 2510.24081)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.documents import as_test
from lm_eval_moe.multilingual.local_data import rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["load"]

_SOLUTIONS = tuple(f"solution{index}" for index in range(4))
_ENGLISH = ("eng_prompt", *(f"eng_{name}" for name in _SOLUTIONS))


def load(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return the items of one language as ``test``.

    Columns: those of the hub (``prompt``, ``solution0`` to ``solution3``, ``label``, ...) and ``item``, which names an
    item in every language: a digest of the English original that every row carries. (Whether ``example_id`` is the
    same in every language is not documented.)

    Args:
        moe: What the manifest says.
        bench_dir: Folder of JSON lines: ``global_piqa/<language>.jsonl``.

    Raises:
        UserError: The data are not there or lack a column, or two rows have the same English original.
    """
    columns = ("prompt", *_SOLUTIONS, "label", *_ENGLISH)
    rows = rows_of(moe, "test", columns, bench_dir=bench_dir)
    items = [_item(row) for row in rows]
    if len(set(items)) < len(items):
        first = next(item for item in items if items.count(item) > 1)
        numbers = [str(number) for number, item in enumerate(items) if item == first]
        raise UserError(
            f"the rows {', '.join(numbers)} have the same English original, so items cannot be told apart",
            fix="check the columns eng_prompt and eng_solution0 to eng_solution3",
            where=f"{moe['dataset']} ({moe.get('config')})",
        )
    return as_test(rows, item=items)


def _item(row: Mapping[str, Any]) -> str:
    # The order of the solutions may differ between languages. The English rows may leave their own original out.
    prompt, *solutions = (row[name] for name in _ENGLISH)
    if not prompt:
        prompt, *solutions = (row[name] for name in ("prompt", *_SOLUTIONS))
    original = "\n".join([prompt, *sorted(str(solution) for solution in solutions)])
    return hashlib.sha256(original.encode()).hexdigest()[:16]
