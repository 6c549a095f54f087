"""Threads that have ended are let go of by other threads, never by the main one: there a Ctrl-C would be lost."""

from __future__ import annotations

import threading

_kept: list[threading.Thread] = []


def keep_thread() -> None:
    """Keep the calling thread until one that begins after its end calls this; to be called first by each thread.

    Python has all threads in a `WeakSet`. Its callback is written in Python, and runs where the last reference goes; a
    Ctrl-C that is raised in a callback is dropped. 1 of 300 was, in loops whose epochs end a few threads each.
    """
    global _kept  # no lock, which a fork could leave held: of two threads at once one may not be kept
    _kept = [thread for thread in _kept if thread.is_alive()] + [threading.current_thread()]
