"""Loaded by every Python process that has this folder on its path: writes of worker threads take `SLOW_DISK_MS` longer.

What a disk does that is busy. Without it, a write reaches the kernel within a fraction of a millisecond, and SIGKILL
can't tell a node that waits for its disk from one that does not.
"""

import os
import threading
import time

delay_s = float(os.environ.get("SLOW_DISK_MS", "0")) / 1000
if delay_s:
    pwrite = os.pwrite

    def slow_pwrite(fd, chunk, offset):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(delay_s)
        return pwrite(fd, chunk, offset)

    os.pwrite = slow_pwrite
