"""What several unit tests share."""

from __future__ import annotations

import pytest
from masr_registration import compiled
from masr_registration.solver import kernels


@pytest.fixture(params=["compiled", "plain torch"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with the compiled kernels and again without them."""
    if request.param == "compiled":
        if compiled.sampling is None:
            pytest.skip("needs numba")
        return
    for module, name in ((compiled, "sampling"), (compiled, "mind"), (kernels, "numba_backend")):
        monkeypatch.setattr(module, name, None)
