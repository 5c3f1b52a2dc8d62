"""Tells from its first bytes what a file is that was given in place of weights."""

from pathlib import Path

_SIGNATURES = (
    (b"version https://git-lfs.github.com/spec/", "Git LFS pointer file, which stands for the weights"),
    (b"PK\x03\x04", "ZIP archive, and no PyTorch file that can be read"),
    (b"\x80", "Python pickle that can't be read as tensors alone"),
    (b"\x89HDF", "HDF5 file (Keras?)"),
    (b"\x93NUMPY", "NumPy array"),
    (b"GGUF", "GGUF file"),
    (b"\x1f\x8b", "gzip archive"),
    (b"\x89PNG", "PNG picture"),
    (b"\xff\xd8\xff", "JPEG picture"),
)


def may_be_pickle(path: Path) -> bool:
    """Whether a file begins like those that torch writes: ZIP archives, or bare pickles before version 1.6."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def kind_of_file(path: Path) -> str:
    """A few words that describe a file."""
    if not path.is_file():
        return "damaged directory of Orbax" if path.is_dir() else "no file"
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return "file that can't be read"
    if not start:
        return "empty file"
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if start[4:8] == b"ftyp":
        return "video (MP4)"
    if path.suffix == ".safetensors" and b"\0" in start[:8]:
        return "damaged safetensors file"
    text = start.decode(errors="ignore")  # a character may be cut in two at the end
    if len(text.encode()) < len(start) - 3 or not all(c.isprintable() or c.isspace() for c in text):
        return "file of unknown kind"
    kinds = {"<": "HTML or XML text (the page of a failed download?)", "{": "JSON text", "[": "JSON text"}
    return kinds.get(text.lstrip()[:1], "text file")
