"""What a path, an address or a pattern stands for: the source that reads it."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from normgate.data import addresses, patterns
from normgate.data.decoding import ImageError
from normgate.data.folders import ClassFolder, FlatFolder
from normgate.data.kinds import KINDS, kind_of
from normgate.data.listing import Listing, Named
from normgate.data.names import printable, utf8_name
from normgate.data.patience import patiently, reason
from normgate.data.remote import RemoteFile
from normgate.data.sources import SourceError

if TYPE_CHECKING:
    from normgate.data.entries import Place
    from normgate.data.kinds import Kind
    from normgate.data.listing import Files
    from normgate.data.parquet import ParquetImages
    from normgate.data.shards import TarImages
    from normgate.data.sources import Source


_IN_WORDS: dict[Kind, str] = {"images": "images", "tables": "Parquet files", "shards": "tars"}


def open_place(place: str, *, labelled: bool, image_column: str, label_column: str, group_column: str | None) -> Source:
    """The source for a folder, a file, or a pattern of files, here or elsewhere; see `open_source`.

    Raises:
        SourceError: there is nothing, no image, several kinds of files, or not the layout that is needed.
    """
    if addresses.is_address(place):
        files, query = _elsewhere(addresses.find(place))
        # Keys and tokens may stand in an address, and what is written down is read by others.
        name = hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
    else:
        files, query = _here(addresses.local_path(place))
        name = utf8_name(os.path.realpath(addresses.local_path(place)))
    source = _source(files, query, labelled, image_column, label_column, group_column)
    source.place = f"{name} {image_column} {_mark(files)}"
    return source


def _mark(files: Files) -> str:
    """What changes when tables or tars are written anew, whose images keep their names; nothing for images."""
    kind = _kind(files)
    found = hashlib.blake2b(digest_size=16)
    for name, place in () if kind in (None, "images") else files.of(kind):
        found.update(f"{name} {_written(place)}\n".encode())
    return found.hexdigest()


def _written(place: Place | ImageError) -> tuple[int | None, ...]:
    if isinstance(place, Path):
        with contextlib.suppress(OSError):
            status = place.stat()
            return status.st_size, status.st_mtime_ns
    return (place.size,) if isinstance(place, RemoteFile) else ()


def _source(
    files: Files, query: str, labelled: bool, image_column: str, label_column: str, group_column: str | None
) -> ClassFolder | FlatFolder | ParquetImages | TarImages:
    kind = _kind(files)
    if kind == "tables":
        from normgate.data.parquet import ParquetImages

        return ParquetImages(
            files.of(kind),
            image_column=image_column,
            label_column=label_column if labelled else None,
            group_column=group_column,
            select=query,
        )
    if group_column is not None:
        raise SourceError(
            f"{files.root} holds no Parquet files, which alone have columns of groups: make a table of the images, or "
            f"leave out --group-column {group_column} (group_column=None)"
        )
    if query:
        raise SourceError(f"?{query} selects rows of Parquet files, and {files.root} holds none")
    if kind == "shards":
        from normgate.data.shards import TarImages

        return TarImages(files.of(kind), labelled=labelled)
    images = files.of("images")
    return ClassFolder(images) if labelled else FlatFolder(images)


def _here(place: str) -> tuple[Files, str]:
    """Files of a path or a pattern, and what selects rows of them."""
    if not place:
        raise SourceError("no folder is named; '.' is the one that you are in")
    path, query = Path(place), ""
    if not os.path.lexists(path):  # a file may be named with a question mark, a star or a brace
        name, query = patterns.split_query(place)
        if not query and "?" in name and Path(name.partition("?")[0]).is_file():
            name, _, query = name.partition("?")
        path = Path(name)
        if patterns.is_pattern(name) and not os.path.lexists(path):
            folder, alternatives = patterns.split(name)
            root = Path(folder or ".")
            if not root.is_dir():
                raise SourceError(f"{printable(str(root))} is no folder{_suggestion(root)}")
            names: list[tuple[str, Place]] = [(utf8_name(text), root / text) for text in alternatives]
            return _matching(root, names, utf8_name(name)), query
    if not _exists(path):
        if os.path.lexists(path):  # a link is there, what it points to is not
            raise SourceError(
                f"{printable(str(path))} is a link to {printable(str(path.readlink()))}, which does not exist"
            )
        raise SourceError(f"{printable(str(path))} does not exist{_suggestion(path)}")
    return _whole(path, utf8_name(path.name), path.is_dir()), query


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _elsewhere(remote: RemoteFile) -> tuple[Files, str]:
    """The same of an address."""
    # On the web a question mark begins a query, which the server understands.
    wildcards, query, path = "*[", "", remote.path
    if not remote.is_http:
        wildcards = "*?["
        path, query = patterns.split_query(path)
    place = RemoteFile(remote.fs, path)
    if patterns.is_pattern(path, wildcards) and not _is_there(place):
        folder, alternatives = patterns.split(path, wildcards)
        root = RemoteFile(remote.fs, folder.rstrip("/") if folder.strip("/") else folder)
        names: list[tuple[str, Place]] = [(utf8_name(text), root.below(text)) for text in alternatives]
        return _matching(root, names, str(place), wildcards), query
    if remote.is_http:
        return _whole(place, place.name, kind_of(place.name) is None and _is_web_folder(place)), query
    try:
        found = patiently(lambda: place.fs.info(place.path))
    except FileNotFoundError as error:
        raise SourceError(f"{place} does not exist") from error
    except Exception as error:
        raise SourceError(f"{place} cannot be read: {reason(error)}") from error
    return _whole(place, place.name, found["type"] == "directory"), query


def _whole(place: Place, name: str, is_folder: bool) -> Files:
    return Listing(place, KINDS) if is_folder else Named(place, [(name, place)])


def _matching(root: Place, names: list[tuple[str, Place]], text: str, wildcards: str = "*?[") -> Files:
    """What a pattern stands for: the names themselves where braces spell them out, else what is found to match."""
    if not any(patterns.has_wildcard(name, wildcards) for name, _ in names):
        files: Files = Named(root, names)
    else:
        files = Listing(root, KINDS, patterns.compiled([name for name, _ in names]))
    # Unless the pattern itself tells, all are looked at, since a mixture that shows after hours would have cost them.
    said = {kind_of(name) for name, _ in names}
    listed = itertools.islice(files, 1) if len(said) == 1 and None not in said else files
    kinds = {kind for name, place in listed if (kind := _kind_in_listing(name, place)) is not None}
    if not kinds:
        raise SourceError(
            f"{text} matches no image, Parquet file or tar; * and ? stay within a folder, ** goes through folders"
        )
    if len(kinds) > 1:
        raise SourceError(
            f"{text} matches {' and '.join(_IN_WORDS[kind] for kind in KINDS if kind in kinds)}; end it in the "
            "extension of those that are meant, such as *.jpg"
        )
    return files


def _kind(files: Files) -> Kind | None:
    """The kind of files that are meant: of all those in a folder images win, whatever lies among them."""
    found: Kind | None = None
    for name, place in files:
        kind = _kind_in_listing(name, place)
        if kind == "images":
            return kind
        found = "tables" if "tables" in (found, kind) else kind or found
    return found


def _kind_in_listing(name: str, place: Place | ImageError) -> Kind | None:
    # A folder that cannot be read may have held images.
    return "images" if isinstance(place, ImageError) else kind_of(name)


def _is_there(place: RemoteFile) -> bool:
    try:
        return bool(patiently(lambda: place.fs.exists(place.path)))
    except Exception as error:
        raise SourceError(f"{place} cannot be read: {reason(error)}") from error


def _is_web_folder(place: RemoteFile) -> bool:
    """Whether an address whose name says nothing is a page with links to files below it."""
    try:
        return bool(patiently(lambda: place.fs.ls(place.path, detail=False)))
    except FileNotFoundError as error:
        raise SourceError(f"{place} does not exist") from error
    except Exception as error:
        raise SourceError(f"{place} cannot be read: {reason(error)}") from error


def _suggestion(path: Path) -> str:
    parent = path.absolute().parent
    if not parent.is_dir():
        return f", and neither does {printable(str(parent))}"
    try:
        names = [entry.name for entry in parent.iterdir() if entry.name != path.name]
    except OSError:
        names = []
    close = [printable(str(path.parent / name)) for name in difflib.get_close_matches(path.name, names, n=3)]
    return f"; did you mean {' or '.join(close)}?" if close else ""
