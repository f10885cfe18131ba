"""Native kernels of every instruction set that this machine runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ostro.kernels.dispatch import native


@pytest.fixture(params=[] if native is None else native.packed_choices(), scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each in turn; what is chosen elsewhere comes back afterwards."""
    before = native.packed_kernels()
    assert native.choose_packed(request.param)
    yield request.param
    native.choose_packed(before)
