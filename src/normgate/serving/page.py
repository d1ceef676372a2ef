"""The page on which a person drops an image: one file, with a content security policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources

_FOLDER = importlib.resources.files("normgate.serving") / "page"
_TEMPLATE, _STYLE, _SCRIPT = (
    (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


HTML = _TEMPLATE.replace("/*style*/", _STYLE).replace("/*script*/", _SCRIPT)
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src blob: data:; "
    f"style-src '{_digest(_STYLE)}'; script-src '{_digest(_SCRIPT)}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
