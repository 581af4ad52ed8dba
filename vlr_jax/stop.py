"""Leaving a loop between two steps when the process is asked to end."""

import contextlib
import signal


class Stop:
    """Turns SIGTERM and the first Ctrl-C into a request to save and leave after the current step."""

    def __init__(self):
        self.asked = False

    def __call__(self, signum, frame):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def listening(self):
        before = {s: signal.signal(s, self) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
