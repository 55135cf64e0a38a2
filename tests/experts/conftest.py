"""Lets the tests here write profiles as those of the selection rules do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "steering"))
