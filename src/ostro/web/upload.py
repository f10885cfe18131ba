"""Forms with one file, read piece by piece: a file is never whole in memory but where its reader puts it together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from ostro.core.errors import InvalidRequestError, OstroError
from ostro.web.body import BodyTooLargeError, UnsupportedMediaTypeError
from ostro.web.disconnect import ClientGoneError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PIECE_BYTES = 1024 * 1024
_MAX_FIELD_BYTES = 4096
_MAX_FIELDS = 32

Sink = Callable[[bytes], Awaitable[None]]


class ForbiddenOriginError(OstroError):
    """A form that a page of another site sent."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden_origin"


@dataclass
class Form:
    """What came beside the bytes. filename: as the client says, for showing only; None where there was no file.

    given: every value of each field, in order.
    """

    given: dict[str, list[str]] = field(default_factory=dict)
    filename: str | None = None
    mimetype: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The fields with the last value of each."""
        return {name: values[-1] for name, values in self.given.items()}

    def add(self, name: str, value: str) -> None:
        self.given.setdefault(name, []).append(value)


def refuse_foreign_pages(request: Request) -> None:
    """Browsers let any page post a form anywhere; one with a key in its headers they ask about first (CORS).

    Raises ForbiddenOriginError.
    """
    origin = request.headers.get("origin")
    if origin is None or "authorization" in request.headers:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        raise ForbiddenOriginError(f"A page of {origin[:200]!r} may not upload files here.")


async def read_upload(request: Request, sink: Sink, *, name: str = "file") -> Form:
    """Feed the file of part `name` to `sink` in order, and return the rest of the form.

    Raises InvalidRequestError for what is no such form, UnsupportedMediaTypeError, ClientGoneError, and whatever
    `sink` raises.
    """
    form = await _read_multipart(request, sink, name, _MAX_FIELD_BYTES)
    if form.filename is None:
        raise InvalidRequestError(
            f"The form has no part '{name}' with a filename.", param=name, code="missing_required_parameter"
        )
    return form


async def read_form(request: Request, sink: Sink, *, name: str = "file", max_field_bytes: int) -> Form:
    """`read_upload` of a form that may do without the file, so that it may be urlencoded, too: that is how clients
    write a form in which no file is.

    max_field_bytes: most bytes of a field, and of an urlencoded form.
    """
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind == b"application/x-www-form-urlencoded":
        return await _read_urlencoded(request, max_field_bytes)
    return await _read_multipart(request, sink, name, max_field_bytes)


async def _read_multipart(request: Request, sink: Sink, name: str, max_field_bytes: int) -> Form:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UnsupportedMediaTypeError("A file is uploaded as 'Content-Type: multipart/form-data; boundary=…'.")
    reader = _FormReader(name, max_field_bytes)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for chunk in _chunks(request):
            parser.write(chunk)
            if len(reader.pending) >= _PIECE_BYTES:
                await sink(reader.take())
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError(f"The form cannot be read: {error}.", code="invalid_form") from error
    if not reader.ended:
        raise InvalidRequestError("The form breaks off before its last boundary. Send it again.", code="invalid_form")
    if reader.pending:
        await sink(reader.take())
    return reader.form


async def _read_urlencoded(request: Request, most: int) -> Form:
    body = bytearray()
    async for chunk in _chunks(request):
        body += chunk
        if len(body) > most:
            raise BodyTooLargeError(f"A form without a file may have {most} bytes. Send files as multipart/form-data.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise InvalidRequestError(
            f"The form cannot be read: it is not UTF-8, or has more than {_MAX_FIELDS} fields.", code="invalid_form"
        ) from error
    form = Form()
    for name, value in pairs:
        form.add(name, value)
    return form


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise ClientGoneError("The client went away in the middle of an upload.") from error


class _FormReader:
    """The parser's callbacks. `pending` holds bytes of the file that nobody has taken yet."""

    def __init__(self, name: str, max_field_bytes: int) -> None:
        self.form = Form()
        self.pending = bytearray()
        self.ended = False
        self._name = name
        self._max_field_bytes = max_field_bytes
        self._count = 0
        self._header = ["", ""]
        self._headers: dict[str, str] = {}
        self._field: str | None = None
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self._data(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def take(self) -> bytes:
        taken = bytes(self.pending)
        self.pending.clear()
        return taken

    def _begin(self) -> None:
        self._headers = {}
        self._value = bytearray()

    def _add_header(self, part: int, data: bytes) -> None:
        self._header[part] += data.decode("latin-1")

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = ["", ""]

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        name = _text(options.get(b"name", b""))
        if b"filename" not in options:
            self._count += 1
            if not name or self._count > _MAX_FIELDS:
                raise InvalidRequestError(
                    f"Every part of the form needs a name, and there may be {_MAX_FIELDS} fields.", code="invalid_form"
                )
            self._field = name
            return
        if name != self._name or self.form.filename is not None:
            raise InvalidRequestError(f"The form may hold one file, as part '{self._name}'.", param=self._name)
        self._field = None
        self.form.filename = _text(options[b"filename"])
        self.form.mimetype = self._headers.get("content-type")

    def _data(self, data: bytes) -> None:
        if self._field is None:
            self.pending += data
            return
        self._value += data
        if len(self._value) > self._max_field_bytes:
            raise InvalidRequestError(
                f"The form's field is over {self._max_field_bytes} bytes long.",
                param=self._field[:64],
                code="invalid_form",
            )

    def _end(self) -> None:
        if self._field is not None:
            self.form.add(self._field, _text(bytes(self._value)))

    def _finish(self) -> None:
        self.ended = True


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
