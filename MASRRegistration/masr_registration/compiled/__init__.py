"""CPU kernels compiled by numba that every stage shares; the modules loaded here are None without numba.

Each has a plain torch counterpart that gives the same numbers and is used instead: `transforms.grid.sample`,
`representation.self_similarity.mind_ssc_reference`, `transforms.jacobian.folded_cells_reference`,
`solver.amortized.local_products_reference`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

_PRESENT = find_spec("numba") is not None
jacobian: Any = import_module(".jacobian", __name__) if _PRESENT else None
mind: Any = import_module(".mind", __name__) if _PRESENT else None
products: Any = import_module(".products", __name__) if _PRESENT else None
sampling: Any = import_module(".sampling", __name__) if _PRESENT else None
