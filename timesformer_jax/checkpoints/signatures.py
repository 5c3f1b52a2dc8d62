"""Tells what a file is that was given in place of weights: by its first bytes, or by the objects in a pickle."""

import re
import shlex
import sys
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


_PLAIN_MODULES = ("argparse", "collections", "numpy", "pathlib")
"""Of the modules that come with Python or are met in every program, those whose objects training codes save."""


def class_in_pickle(error: Exception) -> str | None:
    """The class of which `torch.load` says that a pickle holds an object; None for another error, or no such class.

    What a program's own classes do on loading is for those to judge who know the program. Functions of Python's own
    library, which only hostile files hold, are not among these.
    """
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    module = match[1].partition(".")[0] if match else ""
    known = module not in sys.stdlib_module_names and module != "builtins"
    return match[1] if match and (known or module in _PLAIN_MODULES) else None


def how_to_strip(path: Path, class_name: str) -> str:
    """A sentence that says how those who trust a file of tensors and other objects can keep the tensors alone."""
    code = _STRIP.format(path=repr(str(path)))
    return (
        f"it holds objects of {class_name}, whose loading could run code; if you trust the file, strip it where "
        f"{class_name.partition('.')[0]} is installed with: python -c {shlex.quote(code)}"
    )


_STRIP = (
    "import torch; c = torch.load({path}, 'cpu', weights_only=False); "
    "c = c if isinstance(c, dict) else c.state_dict(); "
    "s = next((c[k] for k in ('state_dict', 'model_state', 'model') if k in c), None); "
    "s = s or {{k: v for k, v in c.items() if torch.is_tensor(v)}}; "
    "m, t = ({{k: v for k, v in d.items() if isinstance(v, str)}} for d in (c.get('meta', {{}}), c)); "
    "torch.save({{**t, 'state_dict': s, 'meta': m}}, 'stripped.pth')"
)
"""Keeps texts, too: the config that tells the model and its preprocessing is one, in mmengine's meta or the original's
cfg."""
