"""What servers answer with when they cannot, and what connections do, as our errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ostro.core.errors import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    DeadlineExceededError,
    EngineDeadError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OstroError,
    QueueFullError,
)

if TYPE_CHECKING:
    import httpx2

# What servers say to a path that they do not have.
NO_ROUTE = (404, 405)

# An error in a stream comes after the status. Our servers say which it would have been; of others', the words may.
_STATUS_OF_CODE = {
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "queue_full": 429,
    "engine_dead": 503,
    "not_ready": 503,
    "deadline_exceeded": 504,
}
_STATUS_OF_TYPE = {"invalid_request_error": 400, "rate_limit_error": 429, "timeout_error": 504}


class translated:  # noqa: N801 - reads as the statement it is
    """`with translated():` turns httpx2's connection errors into ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import httpx2

        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            url = error.request.url
            raise APIConnectionError(
                f"Cannot reach {url.scheme}://{url.netloc.decode()}: {error}. Is the server running?",
                code="connection_refused",
            ) from error
        if isinstance(error, httpx2.TimeoutException):
            raise APIConnectionError("The server was silent for longer than the client's timeout.") from error
        if isinstance(error, httpx2.TransportError):
            raise APIConnectionError(f"The connection broke: {error or type(error).__name__}.") from error


def error_of(response: httpx2.Response) -> OstroError:
    """The error that a server answered with; its body has been read."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    error = error_of_body(body if isinstance(body, dict) else {}, response.status_code, _retry_after(response))
    if isinstance(error, APIError):
        error.request_id = response.headers.get("x-request-id")
    return error


def error_of_body(body: Mapping[str, Any], status: int, retry_after: float | None) -> OstroError:
    fields = body.get("error")
    if not isinstance(fields, dict):
        fields = body
    message = str(fields.get("message") or body.get("detail") or f"The server answered with status {status}.")
    code = str(fields.get("code") or "")
    error = _error_kind(message, status, code, retry_after)
    error.status = status
    error.type = str(fields.get("type") or error.type)
    error.code = code or error.code
    error.param = fields.get("param")
    return error


def error_of_chunk(chunk: Mapping[str, Any]) -> OstroError | None:
    """The error that a stream's chunk tells, in whichever of the shapes; None where it tells none."""
    fields = chunk.get("error")
    if not fields and chunk.get("object") != "error":
        return None
    if isinstance(fields, str):
        fields = {"message": fields}
    elif not isinstance(fields, dict) or not fields:
        fields = {name: value for name, value in chunk.items() if name != "error"}
    status = fields.get("status") or fields.get("code")
    if not isinstance(status, int) or not 400 <= status < 600:
        by_type = _STATUS_OF_TYPE.get(str(fields.get("type")), 500)
        status = _STATUS_OF_CODE.get(str(fields.get("code")), by_type)
    pause = fields.get("retry_after")
    message = fields.get("message") or "The server ended the answer without a word."
    return error_of_body({"error": {**fields, "message": message}}, status, pause if isinstance(pause, int) else None)


def _error_kind(message: str, status: int, code: str, retry_after: float | None) -> OstroError:
    match status:
        case 401:
            return AuthenticationError(message)
        case 404 if code == "model_not_found":
            return ModelNotFoundError(message)
        case 400 | 413 | 415 | 422:
            return InvalidRequestError(message)
        case 429:
            return QueueFullError(message, retry_after=1.0 if retry_after is None else retry_after)
        case 503 if code == "engine_dead":
            return EngineDeadError(message, retry_after=5.0 if retry_after is None else retry_after)
        case 503:
            return NotReadyError(message, retry_after=5.0 if retry_after is None else retry_after)
        case 504:
            return DeadlineExceededError(message)
    return APIError(message, status=status, code=code or None, retry_after=retry_after)


def _retry_after(response: httpx2.Response) -> float | None:
    try:
        return float(response.headers.get("retry-after", ""))
    except ValueError:
        return None


def json_of(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise APIError("The server's answer is not JSON.", status=response.status_code) from error
    if not isinstance(body, dict):
        raise APIError("The server's answer is not a JSON object.", status=response.status_code)
    return body
