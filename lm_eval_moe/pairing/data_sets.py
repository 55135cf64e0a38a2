"""Which items are the same, whatever the benchmark that asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lm_eval_moe.strict_yaml import read_yaml
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = ["data_item", "load_data_sets"]

_FILE = Path(__file__).with_name("data_sets.yaml")
_VERSION = 1


def data_item(benchmark: str, key: str) -> tuple[str, str]:
    """Return the data set that an item is of, and its key there: the same for every benchmark that has the item.

    Args:
        benchmark: The benchmark with its variants (``afrimgsm[mode=cot,prompt=1]``).
        key: The item's key in it.
    """
    data_set = load_data_sets().get(benchmark.partition("[")[0], benchmark)
    number = key.removeprefix("row:")
    return data_set, number if number.isdecimal() else key


@lru_cache(maxsize=1)
def load_data_sets() -> Mapping[str, str]:
    """Return the data set of every benchmark that shares one, by the benchmark's name without its variants."""
    fields = YamlValue(YamlPlace(str(_FILE), _FILE.parent), read_yaml(_FILE, "data sets")).keys(
        ["version", "data_sets"]
    )
    fields["version"].version(_VERSION)
    return {
        name.words(): str(data_set)
        for data_set, names in fields["data_sets"].mapping("{mgsm: [mgsm, mgsm_boxed]}").items()
        for name in names.items("[mgsm, mgsm_boxed]")
    }
