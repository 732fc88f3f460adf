"""Runs ministack, the local AWS, for as long as the process that started it lives.

When that process closes standard input, or dies, ministack and every Lambda function that it runs
are killed, and the folder for temporary files is deleted. Started by localAws.ts, in a process group
of its own.

The port is an argument so that `ps` shows it: scripts/crash.sh finds this process by it.
"""

import os
import shutil
import subprocess
import sys
import threading

os.environ["GATEWAY_PORT"] = sys.argv.pop()
scratch = os.environ["TMPDIR"]


def end_with_parent():
    while os.read(0, 1024):
        pass
    if os.name == "nt":
        shutil.rmtree(scratch, ignore_errors=True)
        subprocess.call(["taskkill", "/pid", str(os.getpid()), "/t", "/f"])
    else:
        # From outside of this process group. Twice, because a `sam` of the same parent may still be writing.
        end = 'kill -s KILL -- "-$1"; rm -rf "$2"; sleep 2; rm -rf "$2"'
        end = ["sh", "-c", end, "sh", str(os.getpgrp()), scratch]
        subprocess.Popen(end, start_new_session=True, stdin=subprocess.DEVNULL)


threading.Thread(target=end_with_parent, daemon=True).start()

try:
    # Only now, because ministack looks for its temporary folder when it is imported.
    from ministack.app import main

    main()
finally:
    shutil.rmtree(scratch, ignore_errors=True)
