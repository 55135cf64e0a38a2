"""What runs models: one folder for each engine, and what all of them share.

A folder here that holds a ``model.py`` is a backend: its ``__init__`` registers the name of its model class.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

__all__: list[str] = []

for _file in sorted(Path(__file__).parent.glob("*/model.py")):
    import_module(f"{__name__}.{_file.parent.name}")
