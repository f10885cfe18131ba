"""The error tree: one root, and the HTTP face of each leaf."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from ostro.core import errors
from ostro.core.errors import (
    APIError,
    EngineDeadError,
    InvalidRequestError,
    MissingExtraError,
    NotReadyError,
    OstroError,
    PromptTooLongError,
    QueueFullError,
)

CLASSES = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]
STATUS = {
    "InvalidRequestError": 400,
    "PromptTooLongError": 400,
    "AuthenticationError": 401,
    "ModelNotFoundError": 404,
    "QueueFullError": 429,
    "APIConnectionError": 502,
    "NotReadyError": 503,
    "EngineDeadError": 503,
    "DeadlineExceededError": 504,
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_documented_place_in_the_tree(kind: type[OstroError]) -> None:
    assert issubclass(kind, OstroError)
    assert kind.__doc__
    assert kind.status == STATUS.get(kind.__name__, 500)
    assert kind.type
    assert kind.code


def test_message_param_and_code() -> None:
    error = InvalidRequestError("top_p is wrong", param="top_p")
    assert (str(error), error.message, error.param, error.code) == (
        "top_p is wrong",
        "top_p is wrong",
        "top_p",
        "invalid_value",
    )
    assert InvalidRequestError("x", code="special").code == "special"
    assert InvalidRequestError("x").code == "invalid_value"


def test_a_prompt_too_long_names_both_lengths() -> None:
    error = PromptTooLongError(120, 30, 128)
    assert "120" in str(error)
    assert "128" in str(error)
    assert "max_tokens=30" in str(error)
    assert error.code == "context_length_exceeded"
    assert (error.prompt_tokens, error.context) == (120, 128)
    assert "max_tokens=" not in str(PromptTooLongError(200, None, 128))


def test_what_may_be_tried_again_says_when() -> None:
    assert QueueFullError("full", retry_after=2.5).retry_after == 2.5
    assert NotReadyError("starting").retry_after == 5.0
    assert EngineDeadError("gone", retry_after=1.0).retry_after == 1.0
    assert APIError("x", status=503, retry_after=3.0).retry_after == 3.0


def test_an_api_error_is_what_the_server_said() -> None:
    error = APIError("bad", status=422, type="t", code="c", param="p", request_id="r")
    assert (error.status, error.type, error.code, error.param, error.request_id) == (422, "t", "c", "p", "r")


def test_a_missing_extra_names_what_to_install() -> None:
    assert "pip install 'ostro[train]'" in str(MissingExtraError("Training", "train"))


def test_core_imports_no_torch() -> None:
    code = (
        "import sys, ostro.core.errors, ostro.core.sampling, ostro.core.options, ostro.core.expand, "
        "ostro.core.request, ostro.core.events, ostro.core.protocols; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
