"""The logs that a job writes to, kept as they are."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def kept() -> Iterator[logging.Logger]:
    """The library's log; it and the root of all logs are as they were, afterwards."""
    loggers = [logging.getLogger("myostage"), logging.getLogger()]
    states = [(list(found.handlers), found.level, found.propagate) for found in loggers]
    try:
        yield loggers[0]
    finally:
        logging.captureWarnings(False)
        for found, (handlers, level, propagate) in zip(loggers, states, strict=True):
            for handler in set(found.handlers) - set(handlers):
                found.removeHandler(handler)
                with suppress(OSError):  # of a full disk
                    handler.close()
            found.setLevel(level)
            found.propagate = propagate
