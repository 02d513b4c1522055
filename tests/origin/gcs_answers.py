"""Answers as GCS gives them, for the scripted server."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.scripted import Handler, answer


def said(status: int, reason: str, message: str = "Said so.", **headers: str) -> Handler:
    """An error of the JSON API."""
    error = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
    return answer(status, json.dumps({"error": error}).encode(), list(headers.items()))


def document(**fields: Any) -> Handler:
    return answer(200, json.dumps(fields).encode(), [("content-type", "application/json; charset=UTF-8")])


def resource(**fields: Any) -> Handler:
    """An object's metadata."""
    return document(**{"generation": "17", "size": "10", **fields})
