"""What all tests share: a quiet reference implementation."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Nothing here may reach a hub; a mistake should fail at once instead of trying.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# A server started by a test leaves the user's own store alone.
os.environ.setdefault("OSTRO_STORE", ":memory:")

# Deterministic, and without a deadline: a shared machine has slow moments.
settings.register_profile(
    "ostro", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ostro")


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers(request: pytest.FixtureRequest) -> None:
    """No logging and no progress bars from transformers, in the runs that use it at all."""
    import sys

    if "transformers" not in sys.modules:  # Imported by the test modules themselves, at collection.
        return
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
