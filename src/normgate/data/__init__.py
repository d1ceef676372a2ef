"""Images: where they come from, how they are decoded, and how they become a network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normgate.lazily import late_names

if TYPE_CHECKING:
    from normgate.data.decoding import ImageError, decode
    from normgate.data.demo import demo_set
    from normgate.data.preprocessing import Preprocessing, PreprocessingError
    from normgate.data.sources import Data, Record, Records, Source, SourceError, load, open_source

__all__ = [
    "Data",
    "ImageError",
    "Preprocessing",
    "PreprocessingError",
    "Record",
    "Records",
    "Source",
    "SourceError",
    "decode",
    "demo_set",
    "load",
    "open_source",
]

_MODULES = {
    "Data": "sources",
    "ImageError": "decoding",
    "Preprocessing": "preprocessing",
    "PreprocessingError": "preprocessing",
    "Record": "sources",
    "Records": "sources",
    "Source": "sources",
    "SourceError": "sources",
    "decode": "decoding",
    "demo_set": "demo",
    "load": "sources",
    "open_source": "sources",
}

__getattr__, __dir__ = late_names(__name__, _MODULES)
