"""Counts how often files are read that stand in fsspec's memory."""

from collections import Counter

import pytest
from fsspec.implementations.memory import MemoryFileSystem


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file behind memory:// has been read, by path."""
    counter: Counter[str] = Counter()
    read = MemoryFileSystem.cat_file

    def counted(self: MemoryFileSystem, path: str, *arguments: int | None, **options: int | None) -> bytes:
        counter[path] += 1
        return read(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    return counter
