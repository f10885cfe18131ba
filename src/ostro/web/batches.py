"""Wire types of batch jobs, as Mistral and as OpenAI have them, and of the files that they use."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ostro.web.bounded import JsonObject, Many, at_most

MAX_HOURS = 168
DEFAULT_HOURS = 24
MAX_INPUT_FILES = 100
MAX_INLINE_REQUESTS = 10_000

MistralStatus = Literal[
    "QUEUED", "RUNNING", "SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLATION_REQUESTED", "CANCELLED"
]


class BatchRequest(BaseModel):
    """One request of a job that brings its requests along."""

    model_config = ConfigDict(extra="ignore", strict=True)

    body: JsonObject
    custom_id: str | None = None


class CreateBatchJob(BaseModel):
    """`POST /v1/batch/jobs`. model: for requests that name none. timeout_hours: from its creation."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    endpoint: str
    input_files: Many[str] | None = Field(default=None, max_length=MAX_INPUT_FILES)
    requests: Many[BatchRequest] | None = Field(default=None, max_length=MAX_INLINE_REQUESTS)
    model: str | None = None
    agent_id: str | None = None
    metadata: JsonObject | None = Field(default=None, max_length=64)
    timeout_hours: int | None = Field(default=None, ge=1, le=MAX_HOURS)


class OutputExpiry(BaseModel):
    """When the files that a batch writes go. seconds: after they are written."""

    model_config = ConfigDict(extra="ignore", strict=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class CreateBatch(BaseModel):
    """`POST /v1/batches`. completion_window: such as 24h, which is all that OpenAI takes."""

    model_config = ConfigDict(extra="ignore", strict=True)

    endpoint: str
    input_file_id: str
    completion_window: str = Field(pattern=r"^([1-9]\d?|1[0-5]\d|16[0-8])h$")  # up to MAX_HOURS
    metadata: Annotated[dict[str, str], at_most(16)] | None = Field(default=None, max_length=16)
    output_expires_after: OutputExpiry | None = None


class JobsPage(BaseModel):
    """The query of `GET /v1/batch/jobs`. Mistral's client sends the pairs of `metadata` as parameters of their own."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    page: int = Field(default=0, ge=0, le=1_000_000)
    page_size: int = Field(default=100, ge=1, le=1000)
    model: str | None = None
    agent_id: str | None = None
    created_after: datetime | None = None
    created_by_me: bool = False
    status: list[MistralStatus] = []
    order_by: Literal["created", "-created"] = "-created"

    @field_validator("created_after", mode="before")
    @classmethod
    def _no_number(cls, given: object) -> object:
        """pydantic takes numbers for times, in seconds or milliseconds as it thinks best."""
        if isinstance(given, str) and re.fullmatch(r"[+-]?[\d._]+", given.strip()):
            raise ValueError("must be a time such as 2026-01-31T12:00:00Z")
        return given


class BatchesPage(BaseModel):
    """The query of `GET /v1/batches`. after: the last batch of the page before."""

    model_config = ConfigDict(extra="ignore")

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


class FilesPage(BaseModel):
    """The query of `GET /v1/files`: OpenAI's (after, limit, order), and Mistral's (page and the others)."""

    model_config = ConfigDict(extra="ignore")

    purpose: str | None = None
    after: str | None = None
    limit: int = Field(default=10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"
    page: int | None = Field(default=None, ge=0, le=1_000_000)
    page_size: int = Field(default=100, ge=1, le=1000)
    include_total: bool = True
    sample_type: list[str] = []
    source: list[str] = []
    mimetypes: list[str] = []
    search: str | None = None


class FileObject(TypedDict):
    """A file, in OpenAI's and Mistral's fields in one. Times in seconds since the epoch; signature is the SHA-256."""

    id: str
    object: str
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    sample_type: str
    source: str
    num_lines: int | None
    mimetype: str | None
    signature: str


class RetrievedFile(FileObject):
    """One file by its id; `deleted` is Mistral's, and files that are gone are 404."""

    deleted: bool


class FileList(TypedDict):
    object: str
    data: list[FileObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    total: NotRequired[int]


class Deleted(TypedDict):
    id: str
    object: str
    deleted: bool


class JobError(TypedDict):
    message: str
    count: int


class BatchJobObject(TypedDict):
    """A job, as Mistral has it. outputs: the lines of its output file, where they were asked for."""

    id: str
    object: str
    input_files: list[str]
    endpoint: str
    model: str | None
    agent_id: str | None
    metadata: dict[str, Any] | None
    errors: list[JobError]
    status: MistralStatus
    created_at: int
    started_at: int | None
    completed_at: int | None
    total_requests: int
    completed_requests: int
    succeeded_requests: int
    failed_requests: int
    output_file: str | None
    error_file: str | None
    outputs: list[dict[str, Any]] | None


class BatchJobList(TypedDict):
    object: str
    data: list[BatchJobObject]
    total: int


class BatchError(TypedDict):
    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(TypedDict):
    object: str
    data: list[BatchError]


class RequestCounts(TypedDict):
    total: int
    completed: int
    failed: int


class InputTokens(TypedDict):
    cached_tokens: int


class OutputTokens(TypedDict):
    reasoning_tokens: int


class BatchUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class BatchObject(TypedDict):
    """A job, as OpenAI has it."""

    id: str
    object: str
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    cancelling_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, Any] | None


class BatchList(TypedDict):
    object: str
    data: list[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
