"""What the application takes and gives, as an OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normgate import __version__
from normgate.serving.options import MOST_NEIGHBOURS

if TYPE_CHECKING:
    from normgate.serving.options import Options

_NUMBER = {"type": ["number", "null"]}
_TEXT = {"type": ["string", "null"]}


def document(options: Options) -> dict[str, Any]:
    """The document of an application with these options."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "normgate",
            "version": __version__,
            "description": "Labels, scores and p-values of images, and whether each is familiar enough to be accepted.",
        },
        "paths": {
            "/verdicts": {"post": _verdicts(options)},
            "/gate": {"get": _get("What is served", "Gate")},
            "/reload": {"post": _reload()},
            "/metrics": {"get": _text("Counts for Prometheus", "text/plain")},
            "/health": {"get": _get("Whether the process is alive", "Status")},
            "/ready": {"get": _get("Whether there is room for images", "Status", 429, 503)},
            "/": {"get": _text("A page that judges images dropped on it", "text/html")},
            "/openapi.json": {"get": _get("This document", "Document")},
        },
        "components": {"schemas": _SCHEMAS},
    }
    if options.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in ("/verdicts", "/gate", "/reload", "/metrics"):
            for operation in document["paths"][path].values():
                operation["security"] = [{"token": []}]
                operation["responses"]["401"] = _error("The token is missing or wrong")
    return document


def _verdicts(options: Options) -> dict[str, Any]:
    image = {"schema": {"type": "string", "format": "binary", "minLength": 1, "maxLength": options.max_bytes}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form = {
        "type": "object",
        "properties": {"images": {**files, "maxItems": options.max_images}},
        "required": ["images"],
        "additionalProperties": False,
    }
    return {
        "summary": "Judge images",
        "description": "One image as the body, or several as the files of a form, under any names.",
        "parameters": [
            {
                "name": "neighbours",
                "in": "query",
                "description": "How many nearest training images to show, where the server may show any.",
                "schema": {"type": "integer", "minimum": 0, "maximum": MOST_NEIGHBOURS, "default": 0},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"image/*": image, "application/octet-stream": image, "multipart/form-data": {"schema": form}},
        },
        "responses": {
            "200": _answer("A verdict an image, in order", "Verdicts"),
            "400": _error("The request is broken"),
            "408": _error("The body did not arrive in time"),
            "413": _error("The body is too large"),
            "415": _error("The body is of another kind"),
            "422": _error("The image cannot be read or judged, or the form is broken or has too many files"),
            "429": _error("The queue is full"),
            "503": _error("No verdict in time, or the server is shutting down"),
        },
    }


def _reload() -> dict[str, Any]:
    return {
        "summary": "Read the gate's folder again",
        "responses": {
            "200": _answer("The gate that is served from now on", "Reloaded"),
            "403": _error("Without a token nobody reloads over HTTP"),
            "409": _error("The new gate cannot be served; the one from before goes on"),
        },
    }


def _get(summary: str, schema: str, *errors: int) -> dict[str, Any]:
    refused = {str(status): _error("Not now") for status in errors}
    return {"summary": summary, "responses": {"200": _answer(summary, schema), **refused}}


def _text(summary: str, kind: str) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string"}}}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}


def _answer(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _error(description: str) -> dict[str, Any]:
    return _answer(description, "Error")


def _object(optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_STRING, _BOOLEAN, _INTEGER = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
_SCHEMAS = {
    "Verdict": _object(
        optional=("neighbours",),
        id={**_STRING, "description": "File name in the form"},
        label={**_TEXT, "description": "Predicted class"},
        probability={**_NUMBER, "description": "Of that class, by the trained softmax"},
        score={**_NUMBER, "description": "Larger = more familiar"},
        p_value={**_NUMBER, "description": "Share of calibration images at most as familiar"},
        accepted={"type": ["boolean", "null"], "description": "Whether the score passes the threshold"},
        error={**_TEXT, "description": "Why the image cannot be read or judged; everything else is null then"},
        neighbours={"type": "array", "items": {"$ref": "#/components/schemas/Neighbour"}},
    ),
    "Neighbour": _object(id=_STRING, label=_STRING, cosine={"type": "number"}, thumbnail=_STRING),
    "Verdicts": _object(
        gate={**_STRING, "description": "Digest of the gate that judged"},
        verdicts={"type": "array", "items": {"$ref": "#/components/schemas/Verdict"}},
    ),
    "Gate": _object(
        gate=_STRING,
        classes={"type": "array", "items": _STRING},
        score=_STRING,
        runtime=_STRING,
        false_alarm_rate={"type": "number"},
        by_class=_BOOLEAN,
        thresholds={"type": "array", "items": _NUMBER},
        calibration=_object(
            images=_INTEGER,
            edges={"type": "array", "items": {"type": "number"}},
            counts={"type": "array", "items": _INTEGER},
        ),
        size={"type": "array", "items": _INTEGER},
        neighbours=_BOOLEAN,
        caveats={"type": "array", "items": _STRING},
        limits={"type": "object", "additionalProperties": {"type": "number"}},
        shift={"type": ["object", "null"]},
    ),
    "Reloaded": _object(gate=_STRING),
    "Status": _object(status=_STRING),
    "Document": {"type": "object"},
    "Error": _object(error=_STRING),
}
