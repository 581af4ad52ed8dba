"""Where raw files lie: a name or a glob, looked for beside the data first and then where we stand."""

import glob
import os
import pathlib


def find(pattern, folder: pathlib.Path, what: str) -> list[pathlib.Path]:
    """The files or folders that a path or glob names, looked for in `folder` first and then where we stand.

    Raises:
        ValueError: there are none; says `what` was looked for, and where.
    """
    pattern = str(pattern)
    for place in (folder, pathlib.Path.cwd()):
        if found := sorted(map(pathlib.Path, glob.glob(os.path.join(glob.escape(str(place)), pattern)))):
            return found
        if (place / pattern).exists():  # a name that has *, ? or [ in it
            return [place / pattern]
    raise ValueError(f"{what} {pattern!r} is neither in {folder} nor in {pathlib.Path.cwd()}")


def one(pattern, folder: pathlib.Path, what: str) -> pathlib.Path:
    """The only file or folder that a path or glob names.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = find(pattern, folder, what)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ValueError(f"{what} {str(pattern)!r} fits {len(found)} names, expected one; the first: {names}")
    return found[0]


def media(names, folder: pathlib.Path) -> list[pathlib.Path]:
    """A folder or tar files with pictures: globs with commas between; `folder` where none is named.

    Raises:
        ValueError: as `find`.
    """
    return [folder] if names is None else [p for part in str(names).split(",") for p in find(part, folder, "media")]


def below(place: pathlib.Path, suffixes) -> list[pathlib.Path]:
    """The files of a folder and all below it that have one of the (lower-case) suffixes; of a file, the file."""
    return sorted(p for p in place.rglob("*") if p.suffix.lower() in suffixes) if place.is_dir() else [place]
