"""Writing a small file, or a folder, whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import threading


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


def _remove_stale(root: pathlib.Path) -> None:
    """Removes what killed processes of this machine have left beside a folder."""
    start = f"{root.name}.partial-{socket.gethostname()}-"
    for path in root.parent.glob("*"):
        pid = path.name.removeprefix(start)
        if not path.name.startswith(start) or not pid.isdecimal():
            continue
        try:
            if int(pid) != os.getpid():
                os.kill(int(pid), 0)
                continue
        except ProcessLookupError:
            pass
        except PermissionError:  # alive, another user's
            continue
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(root: pathlib.Path):
    """A folder beside `root` in which to make it; gone afterwards, however that comes, SIGTERM included.

    What killed processes of this machine have left for the same `root` is removed first.

    Raises:
        OSError: as what is written there does; the message names `root`, and says that nothing is left.
    """

    def stop(number, frame):
        raise SystemExit(128 + number)

    _remove_stale(root)
    partial = root.parent / f"{root.name}.partial-{socket.gethostname()}-{os.getpid()}"
    in_main = threading.current_thread() is threading.main_thread()  # only there signals can be handled
    previous = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        partial.mkdir(parents=True)
        yield partial
    except OSError as error:
        message = f"Preparing {root} failed: {error}. Nothing of it is left in {root.parent}."
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if in_main:
            signal.signal(signal.SIGTERM, previous)
