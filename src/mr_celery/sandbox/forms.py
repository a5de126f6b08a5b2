"""Parses multipart forms strictly. Incomplete forms are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .values import MalformedError


class _Parser(MultiPartParser):
    """Starlette's parser, which also records whether the closing boundary was received."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


@asynccontextmanager
async def read_form(request: Request, fields: Collection[str]) -> AsyncIterator[FormData]:
    """Parse the form in the request's body. Uploaded files are temporary and are deleted after the block.

    Args:
        request: the request.
        fields: allowed field names. Each may appear once.

    Raises:
        MalformedError: the body is not a form, is incomplete, or has other fields.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise MalformedError("the body must be multipart/form-data")
    parser = _Parser(request.headers, request.stream(), max_files=1, max_fields=10)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedError(error.message) from error
    except UnicodeError as error:
        raise MalformedError(f"the form's texts cannot be decoded: {error}") from error
    try:
        if not parser.ended:
            raise MalformedError("the form ends before its closing boundary")
        names = [name for name, _ in form.multi_items()]
        for name in names:
            if name not in fields:
                raise MalformedError(f"the form has an unknown field {name[:40]!r}")
            if names.count(name) > 1:
                raise MalformedError(f"the form has {name} twice")
        yield form
    finally:
        await form.close()
