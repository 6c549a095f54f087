"""Waiting for threads that Ctrl-C may have met while they were started."""

from __future__ import annotations

import threading
import time

from intune_gpu.kernels.threads import LOOK_S

_AGAIN_S = 0.001


def join_begun(thread: threading.Thread, timeout_s: float) -> None:
    """Wait for a thread to end, at most so long; for the calling one, and one that was never started, not at all.

    `Thread.start` waits for the thread that it made. Where Ctrl-C ends that wait the thread runs, and `Thread.join`
    refuses it for the moment that it takes to say so.
    """
    if thread is threading.current_thread():
        return
    deadline = time.monotonic() + timeout_s
    while thread.ident is not None:
        left = max(0.0, deadline - time.monotonic())
        try:
            thread.join(min(left, LOOK_S))
        except RuntimeError:  # "cannot join thread before it is started"
            if left == 0.0:
                return
            time.sleep(_AGAIN_S)
        else:
            if left == 0.0 or not thread.is_alive():
                return
