"""Chooses the kind of spool from the configured URL."""

from __future__ import annotations

from ..errors import SettingsError
from ..settings import Settings
from .base import Spool
from .folder import FolderSpool
from .names import folder_of


def spool_of(settings: Settings, worker: str) -> Spool | None:
    """The configured spool for one worker name, or ``None`` without a URL.

    ``modelreins_spool_url`` is a folder (``/srv/spool``, ``file:///srv/spool``) or a URL that ``fsspec`` supports
    (``s3://bucket/spool``).

    Args:
        settings: the settings, of which ``spool_url`` and ``spool_limit`` are used.
        worker: the worker name.

    Raises:
        SettingsError: the URL needs a package that is not installed, or a folder is not an absolute path.
    """
    url, limit = settings.spool_url, settings.spool_limit
    if not url:
        return None
    scheme, _, path = url.partition("://")
    if url.startswith("/"):
        return FolderSpool(url, worker, limit=limit)
    if scheme == "file":
        if not path.startswith("/"):
            raise SettingsError(
                f"modelreins_spool_url: {url} is not an absolute path; write three slashes, as in file:///srv/spool"
            )
        return FolderSpool(path, worker, limit=limit)
    try:
        from fsspec import get_filesystem_class

        from .remote import RemoteSpool

        get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:  # fsspec: a missing package, or an unknown protocol
        raise SettingsError(
            f"modelreins_spool_url: {scheme}:// needs fsspec and its package for this storage "
            f"(pip install 'mr-celery[spool]', and s3fs, gcsfs, …): {error}"
        ) from None
    return RemoteSpool(f"{url}/{folder_of(worker)}", limit=limit)
