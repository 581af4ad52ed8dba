"""Runs of the claims side by side, each process on a core of its own."""

import multiprocessing
import os
import pathlib
import signal
import sys

import claims_runs as runs

STOPPED = "stopped; the same command goes on where this one was"


def missing(todo: list[tuple], cache: pathlib.Path, shown: str, jobs: int) -> None:
    """`claims_runs.missing` in `jobs` processes; 1: in this one, with all the cores it may use.

    Small models gain little from a second thread, so two runs on one core each are done sooner than one after the other
    on both. All seeds of a configuration are one process's: the first compiles, the others find the step in jax's
    persistent cache. An interruption ends all processes; each saves what it is at, and the same call goes on.

    Raises:
        SystemExit: a process failed, or all were interrupted.
    """
    if jobs == 1:
        runs.missing(todo, cache, shown)
        return
    groups = {}
    for configuration, seed in todo:
        groups.setdefault(configuration.key, []).append((configuration, seed))
    for group in groups.values():
        runs.ready(group[0][0].config)  # here, for two processes may not write one prepared folder
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for group in [*groups.values(), *[None] * jobs]:
        queue.put(group)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    try:
        processes = started(context, (queue, cache, shown), jobs)
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    finally:
        signal.signal(signal.SIGTERM, before)
    if failed := [process.exitcode for process in processes if process.exitcode]:
        sys.exit(f"{len(failed)} of {jobs} processes failed; the same command goes on where they were")


def started(context, arguments: tuple, jobs: int) -> list:
    """Processes at `work`, which end with this one; each inherits a core, and XLA has as many threads as cores."""
    cores, found = sorted(os.sched_getaffinity(0)), []
    try:
        for place in range(jobs):
            os.sched_setaffinity(0, {cores[place % len(cores)]})
            found.append(context.Process(target=work, args=arguments, daemon=True))
            found[-1].start()
    finally:
        os.sched_setaffinity(0, cores)
    return found


def work(queue, cache: pathlib.Path, shown: str) -> None:
    """One process: makes the runs of one configuration after another, until there is None."""
    while group := queue.get():
        runs.missing(group, cache, shown)
