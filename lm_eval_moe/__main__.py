"""``python -m lm_eval_moe``, also for ``accelerate launch -m lm_eval_moe``."""

from __future__ import annotations

import sys

from lm_eval_moe.cli import main

sys.exit(main())
