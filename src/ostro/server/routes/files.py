"""`/v1/files`: what batch jobs read and write, in OpenAI's and Mistral's shape."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import FileResponse

from ostro.core.errors import InvalidRequestError
from ostro.server.context import ServerContext, context_of
from ostro.server.stored_files import find_file
from ostro.storage.files import FileQuery, FileRecord, FileStore
from ostro.web.auth import owner_of
from ostro.web.batches import Deleted, FileList, FileObject, FilesPage, RetrievedFile
from ostro.web.openapi import gives
from ostro.web.upload import Form, read_upload, refuse_foreign_pages

MAX_UPLOAD_BYTES = 512 * 1024 * 1024

_MAX_FILENAME = 255
_HOURS = range(1, 24 * 365 + 1)
_OPENAI_SECONDS = range(3600, 2_592_000 + 1)

ROUTE = ("POST", "/v1/files")  # reads its own body, under MAX_UPLOAD_BYTES

router = APIRouter(prefix="/v1/files", tags=["files"])

Context = Annotated[ServerContext, Depends(context_of)]

_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expiry": {"type": "integer", "minimum": _HOURS.start, "maximum": _HOURS.stop - 1},
    },
}
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@router.post("", openapi_extra=_BODY, responses=gives(FileObject))
async def upload(request: Request, context: Context) -> Any:
    refuse_foreign_pages(request)
    store = FileStore(context.database)
    off_loop = context.database.off_loop
    writer = await off_loop(store.writer)
    try:
        form = await read_upload(request, lambda piece: off_loop(lambda: writer.write(piece)))
        record = await store.add(writer, **_described(form), owner=owner_of(request.scope))
    finally:
        await off_loop(writer.discard)
    return describe(record)


@router.get("", responses=gives(FileList))
async def list_files(request: Request, context: Context, query: Annotated[FilesPage, Query()]) -> Any:
    by_page = query.model_fields_set & {"page", "page_size"}
    limit = query.page_size if by_page else query.limit
    wanted = FileQuery(
        owner=owner_of(request.scope),
        purpose=query.purpose,
        sample_types=query.sample_type,
        sources=query.source,
        mimetypes=query.mimetypes,
        search=query.search,
        ascending=query.order == "asc",
        after=query.after,
        offset=(query.page or 0) * query.page_size if by_page else 0,
        limit=limit + 1,  # one more tells whether there are more
    )
    records, total = await FileStore(context.database).page(wanted)
    shown = [describe(record) for record in records[:limit]]
    ids = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    total_if_wanted = {"total": total} if query.include_total else {}
    return {"object": "list", "data": shown, "has_more": len(records) > limit, **ids, **total_if_wanted}


@router.get("/{file_id}", responses=gives(RetrievedFile))
async def one_file(file_id: str, request: Request, context: Context) -> Any:
    return {**describe(await find_file(context, file_id, owner_of(request.scope))), "deleted": False}


@router.get("/{file_id}/content", response_class=FileResponse, responses=gives("application/octet-stream"))
async def content(file_id: str, request: Request, context: Context) -> Response:
    record = await find_file(context, file_id, owner_of(request.scope))
    return FileResponse(
        FileStore(context.database).path(record),
        media_type="application/octet-stream",  # never shown by a browser, whatever somebody uploaded
        filename=record.filename,
        headers={"x-content-type-options": "nosniff"},
    )


@router.get("/{file_id}/url", response_class=Response)
async def signed_url(file_id: str, request: Request, context: Context) -> None:
    await find_file(context, file_id, owner_of(request.scope))
    raise InvalidRequestError(
        f"This server signs no URLs. Download /v1/files/{file_id}/content with your API key.", code="not_supported"
    )


@router.delete("/{file_id}", responses=gives(Deleted))
async def delete(file_id: str, request: Request, context: Context) -> Any:
    record = await find_file(context, file_id, owner_of(request.scope))
    await FileStore(context.database).delete(record)
    return {"id": record.id, "object": "file", "deleted": True}


def describe(record: FileRecord) -> FileObject:
    """OpenAI's and Mistral's fields in one."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "expires_at": None if record.expires_at is None else int(record.expires_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
        "sample_type": record.sample_type,
        "source": record.source,
        "num_lines": record.num_lines,
        "mimetype": record.mimetype,
        "signature": record.sha256,
    }


def _described(form: Form) -> dict[str, Any]:
    purpose = form.fields.get("purpose", "batch")
    if purpose != "batch":
        raise InvalidRequestError(f"Files are kept for the purpose 'batch', not {purpose[:64]!r}.", param="purpose")
    name = (form.filename or "").replace("\\", "/").rpartition("/")[2]
    shown = "".join(character for character in name if character.isprintable())[:_MAX_FILENAME]
    return {
        "filename": shown or "upload",
        "purpose": purpose,
        "sample_type": "batch_request",
        "source": "upload",
        "mimetype": (form.mimetype or "").partition(";")[0].strip()[:_MAX_FILENAME] or None,
        "expires_at": _expiry(form.fields),
    }


def _expiry(fields: dict[str, str]) -> float | None:
    """When the file goes: Mistral's `expiry` is in hours, OpenAI's `expires_after[seconds]` in seconds."""
    for name, allowed, seconds in (("expiry", _HOURS, 3600), ("expires_after[seconds]", _OPENAI_SECONDS, 1)):
        given = fields.get(name)
        if given is None:
            continue
        if not (given.isascii() and given.isdecimal() and len(given) < 10 and int(given) in allowed):
            raise InvalidRequestError(
                f"{name} must be from {allowed.start} to {allowed.stop - 1}, not {given[:40]!r}.", param=name
            )
        return time.time() + int(given) * seconds
    return None
