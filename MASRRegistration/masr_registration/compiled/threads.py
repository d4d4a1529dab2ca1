"""numba runs on as many threads as torch was given."""

from __future__ import annotations

import numba
import torch


def use_torch_threads() -> None:
    """Call before a parallel kernel. numba's start of its OpenMP threads changes torch's number: that is undone."""
    wanted = torch.get_num_threads()
    numba.set_num_threads(max(1, min(wanted, numba.config.NUMBA_NUM_THREADS)))
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
