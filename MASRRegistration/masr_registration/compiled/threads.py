"""numba runs on as many threads as torch was given."""

from __future__ import annotations

import numba
import torch


def use_torch_threads() -> None:
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
