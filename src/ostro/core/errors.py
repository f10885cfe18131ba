"""The one error tree.

Every error says what happened, what was expected and what to do about it. `status` is the HTTP status
that a server answers with, `type` and `code` are the fields of an OpenAI-shaped error body.
"""

from __future__ import annotations


class OstroError(Exception):
    """Base of everything Ostro raises on purpose."""

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequestError(OstroError):
    """A parameter or a body is wrong; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class PromptTooLongError(InvalidRequestError):
    """The prompt, or the prompt plus `max_tokens`, does not fit the context."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, max_tokens: int | None, context: int, *, at_least: bool = False) -> None:
        """at_least: the prompt was not read to its end."""
        asked = "" if max_tokens is None else f" and max_tokens={max_tokens} more are asked for"
        super().__init__(
            # Clients tell this error from others by how its first sentence begins.
            f"This model's maximum context length is {context} tokens, but the prompt is "
            f"{'at least ' if at_least else ''}{prompt_tokens} tokens long{asked}. Shorten the prompt or lower "
            "max_tokens.",
            param="messages",
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class AuthenticationError(OstroError):
    """No key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ModelNotFoundError(OstroError):
    """The model asked for is neither loaded, nor on disk, nor a known name."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class QueueFullError(OstroError):
    """The waiting queue is full; `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReadyError(OstroError):
    """The engine is starting, draining or being restarted; `retry_after` is in seconds."""

    status = 503
    type = "server_error"
    code = "not_ready"

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineDeadError(NotReadyError):
    """The engine process died while the request was in it."""

    code = "engine_dead"


class LinkError(OstroError):
    """The channel to an engine process carried something that is not one of its messages."""

    code = "link_error"


class DeadlineExceededError(OstroError):
    """The request's own deadline passed before it was done."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class ConfigError(OstroError):
    """A model's or a program's configuration is wrong."""

    code = "bad_config"


class CheckpointError(OstroError):
    """A checkpoint folder cannot be loaded: a missing, unexpected, misshapen or unreadable tensor or file."""

    code = "bad_checkpoint"


class TokenizerError(OstroError):
    """A tokenizer file cannot be loaded or does not support what was asked of it."""

    code = "bad_tokenizer"


class HubError(OstroError):
    """A download from the hub or a mirror failed."""

    code = "hub_error"


class DigestMismatchError(HubError):
    """A downloaded file does not have the digest that the hub announced."""

    code = "digest_mismatch"


class MissingExtraError(OstroError):
    """An optional dependency is not installed; the message names the extra."""

    code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'ostro[{extra}]'")


class StorageError(OstroError):
    """The store could not be read or written."""

    code = "storage_error"


class TrainingError(OstroError):
    """A training run cannot start or go on."""

    code = "training_error"


class APIError(OstroError):
    """A server answered a client with an error; `status`, `type`, `code` and `param` are the server's."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "server_error",
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        self.type = type
        self.request_id = request_id
        self.retry_after = retry_after


class APIConnectionError(OstroError):
    """A client could not reach the server, or the connection broke."""

    status = 502
    code = "connection_error"
