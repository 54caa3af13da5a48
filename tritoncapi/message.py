"""``TRITONSERVER_Message``: JSON text on its way in or out."""

from __future__ import annotations

import ctypes
import json
from typing import Any

from ._handle import Handle
from ._library import Library, load


class Message(Handle):
    """A message that is ours (``TRITONSERVER_MessageDelete`` on close)."""

    noun = "message"

    def __init__(self, pointer: Any, library: Library) -> None:
        super().__init__(pointer, library)
        self._api = library.api

    @classmethod
    def from_json(cls, value: object, library: Library | None = None) -> Message:
        """Makes a message out of anything that json can write (``TRITONSERVER_MessageNewFromSerializedJson``)."""
        library = library or load()
        text = json.dumps(value).encode()
        return cls(library.api.MessageNewFromSerializedJson(text, len(text)), library)

    def text(self) -> str:
        """The JSON text (``TRITONSERVER_MessageSerializeToJson``)."""
        base, size = self._api.MessageSerializeToJson(self.pointer)
        return ctypes.string_at(base, size).decode() if size else ""

    def json(self) -> Any:
        """The message's value."""
        return json.loads(self.text())

    def _dispose(self, pointer: Any) -> None:
        self._api.MessageDelete(pointer)


def take_json(library: Library, pointer: Any) -> Any:
    """Reads a message that a call returned, and deletes it."""
    with Message(pointer, library) as message:
        return message.json()
