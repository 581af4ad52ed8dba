"""Writing a small file whole or not at all."""

import os
import pathlib


def write(path: str | os.PathLike, content: str | bytes) -> pathlib.Path:
    """Writes a file so that a reader, or a kill at any time, finds the old content or the new, never half of it.

    Args:
        path: its folder is made if needed.
        content: text is written as UTF-8.

    Raises:
        OSError: it can't be written; the message names it, and nothing is left behind.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} can't be written: {error.strerror}") from error
    return path
