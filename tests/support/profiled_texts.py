"""Files of texts, and profiles of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_eval_moe import HFMoE
from lm_eval_moe.profiling.capture import CaptureOptions, ProfileJob
from lm_eval_moe.profiling.fields import Fields
from lm_eval_moe.profiling.text_files import TextFile


def source(folder: Path, language: str, texts: list[str], **kwargs: Any) -> TextFile:
    file = folder / f"news_{language}.jsonl"
    lines = [json.dumps({"text": text, "id": f"n{number}"}) for number, text in enumerate(texts)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return TextFile(file, language, "news", Fields(id="id"), **{"limit": None, **kwargs})


def profiled(lm: HFMoE, texts: TextFile, path: Path, **options: Any) -> Path:
    ProfileJob(lm, texts, path, CaptureOptions(**options), lm.identity()).run()
    return path
