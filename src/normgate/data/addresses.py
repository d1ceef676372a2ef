"""Addresses (`s3://bucket/photos`): which texts are some, and the file systems that they name."""

from __future__ import annotations

import re

from normgate.data.patience import patiently, reason, shown
from normgate.data.remote import RemoteFile
from normgate.data.sources import SourceError

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+"
_ADDRESS = re.compile(rf"({_SCHEME}::)*{_SCHEME}://")
_HERE = re.compile(r"(file|local)://", re.IGNORECASE)
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "normgate[s3]"),
    **dict.fromkeys(("gs", "gcs"), "normgate[gcs]"),
    **dict.fromkeys(("http", "https"), "normgate[http]"),
    "hf": "huggingface_hub",
}


def is_address(text: str) -> bool:
    """Whether it begins with `scheme://` and is not `file://`."""
    return _ADDRESS.match(text) is not None and _HERE.match(text) is None


def local_path(text: str) -> str:
    """A path, or what `file://` names."""
    return _HERE.sub("", text, count=1) if _HERE.match(text) else text


def find(address: str) -> RemoteFile:
    """The file or folder of an address, which need not be there. Keys and options come from where fsspec looks.

    Raises:
        SourceError: the scheme is unknown, a library for it is missing, or the file system cannot be opened.
    """
    try:
        import fsspec
    except ImportError as error:
        raise SourceError(f"{shown(address)} needs fsspec: pip install fsspec") from error
    for link in address.split("::"):
        scheme, separator, _ = link.partition("://")
        if separator or re.fullmatch(_SCHEME, link):
            _check(scheme.lower())
    try:
        fs, path = patiently(lambda: fsspec.core.url_to_fs(address))
    except Exception as error:
        raise SourceError(f"{shown(address)} cannot be opened: {reason(error)}") from error
    return RemoteFile(fs, fs._strip_protocol(path))


def _check(scheme: str) -> None:
    """Say what to install for a scheme."""
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise SourceError(
            f"{scheme}:// is no kind of address that is known; write s3://, gs://, hf://, https:// or another that "
            "fsspec knows"
        ) from error
    except ImportError as error:
        package = _EXTRAS.get(scheme)
        how = f"pip install '{package}'" if package else str(error)
        raise SourceError(f"{scheme}:// needs a library that is not installed: {how}") from error
