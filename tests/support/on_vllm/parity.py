"""A script that compares an engine with what `hf-moe` made of a workload, in a process and environment of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def with_second_runner() -> None:
    """Let vLLM's second model runner run on the CPU: Triton's kernels are interpreted."""
    from types import SimpleNamespace

    from triton.backends import backends

    backends.clear()
    driver = SimpleNamespace(is_active=lambda: True)
    backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)


if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1":
    with_second_runner()  # also in the processes that vLLM starts, which import this script

from support.on_vllm.engines import assert_parity, closing, engine  # noqa: E402 - vLLM looks for Triton when it is imported
from support.on_vllm.workload import Workload, read  # noqa: E402


def main(pretrained: str, settings: str, work: str, file: str, plans: str) -> None:
    """Check an engine with settings; print what its workers counted."""
    told = json.loads(work)
    workload = Workload(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})
    with closing(engine(pretrained, **json.loads(settings))) as lm:
        assert_parity(lm, workload, read(Path(file)), json.loads(plans))
        runner = lm.model.llm_engine.vllm_config.use_v2_model_runner
        counted = lm.model.collective_rpc("routing_counted")
    print(json.dumps({"workers": len(counted), **counted[0], "v2": bool(runner)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
