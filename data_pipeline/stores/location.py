"""Refuses URLs that would leak a secret or lead nowhere. Opens nothing."""

from urllib.parse import urlsplit

from data_pipeline.errors import DataError


def check_url(url: str) -> str:
    """Return the URL of a dataset without its closing slash. Raises DataError for one that cannot be a directory.

    A password would end up in run files, logs and error messages; a query belongs to one file, not to a directory.
    """
    if "::" in url:
        raise DataError(f"{url}: chained URLs are not read: name the store itself, its files are cached by data.cache")
    parts = urlsplit(url)
    # A web server's user name alone may be an access token; abfs://container@account is no sign-in.
    if parts.password is not None or (parts.username is not None and parts.scheme in ("http", "https")):
        shown = f"{parts.scheme}://...@{parts.hostname}{parts.path}"
        raise DataError(
            f"{shown}: holds a password or user: leave it out, and let the store's own settings (see docs) sign in"
        )
    if parts.query or parts.fragment:
        raise DataError(
            f"{parts.scheme}://{parts.netloc}{parts.path}: goes on with a query or fragment, which a directory cannot "
            "have: name the directory of manifest.json, and sign in by the store's own settings"
        )
    return url.rstrip("/")
