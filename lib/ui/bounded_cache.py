"""A cache of values that together have at most a given size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """A least-recently-used cache, limited by the sum of its values' sizes. Thread-safe.

    The value that was asked for last stays, even if it is larger than `max_size`.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key, load: Callable[[], tuple[Value, int]]) -> Value:
        """Return the value of a key. `load` returns it with its size; one value is loaded at a time."""
        entry = self._find(key)
        if entry is None:
            with self._loading:
                entry = self._find(key)
                if entry is None:
                    entry = self._store(key, *load())
        return entry[0]

    def _find(self, key: Key) -> tuple[Value] | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][:1]

    def _store(self, key: Key, value: Value, size: int) -> tuple[Value]:
        with self._lock:
            self._entries[key] = (value, size)
            while len(self._entries) > 1 and sum(size for _, size in self._entries.values()) > self._max_size:
                self._entries.popitem(last=False)
        return (value,)
