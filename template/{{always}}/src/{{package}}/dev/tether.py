"""Become the given command, but end with the process that started it; without this a starter killed with -9 leaves
orphans behind that keep ports and queues busy.

Run as a script: `python tether.py <pid of the starter> <command> …`. It needs only the standard library and works on
Linux; elsewhere the command simply runs untethered.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h; the setting survives exec


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` tethered to this process.

    Linux binds the tether to the *thread* that starts the command: start it from one that lives as long as the command.
    """
    if sys.platform != "linux":
        return [*command]
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    starter, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(starter):  # otherwise the starter died before the tether held
        os.execv(command[0], command)
