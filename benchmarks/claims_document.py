"""docs/claims.md of several parts, each written by its own command and left alone by the others."""

import pathlib

from vlr_jax import files

PARTS = ("image-text", "video-text", "moments")  # in the order of the document


def put(folder: pathlib.Path, part: str, text: str) -> pathlib.Path:
    """Puts `text` in the place of a part in `folder`/claims.md; returns the file's path.

    Raises:
        ValueError: the file is there, but not of this form.
    """
    path = folder / "claims.md"
    found = read(path) if path.exists() else {}
    found[part] = text.strip()
    return files.write(path, "\n\n".join(f"{_mark(name)}\n\n{found[name]}" for name in PARTS if name in found) + "\n")


def read(path: pathlib.Path) -> dict[str, str]:
    """Part → its text."""
    content = path.read_text(encoding="utf-8")
    found, rest = {}, content
    for name in reversed(PARTS):
        if _mark(name) in rest:
            rest, _, text = rest.partition(_mark(name))
            found[name] = text.strip()
    if rest.strip() or not found:
        raise ValueError(f"{path} is not made of the parts {', '.join(PARTS)}; move it away")
    return found


def _mark(name: str) -> str:
    return f"<!-- part: {name} -->"
