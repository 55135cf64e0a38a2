"""Our command in processes that share the documents, which lm-eval does where it counts several GPUs: it is told so.

The processes are those of torchrun, with ACCELERATE_USE_CPU=true; the model lies on the CPU, messages go by gloo.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed

from lm_eval_moe.cli import main

if __name__ == "__main__":
    torch.cuda.device_count = lambda: 2
    code = main()
    if code == 0:
        print(f"done on rank {torch.distributed.get_rank()}", file=sys.stderr)
        # gloo's threads abort a process that leaves while another one still runs
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    sys.exit(code)
