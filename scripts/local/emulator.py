"""Runs ministack, the local AWS, until the parent process closes standard input or dies.

Then kills ministack with all Lambda functions that it runs, and deletes the folder for temporary
files. localAws.ts starts this script in its own process group.

The port is an argument because scripts/crash.sh looks for it in the output of `ps`.
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
        # Runs outside this process group. Deletes twice, because sam may still be writing into the folder.
        end = 'kill -s KILL -- "-$1"; rm -rf "$2"; sleep 2; rm -rf "$2"'
        end = ["sh", "-c", end, "sh", str(os.getpgrp()), scratch]
        subprocess.Popen(end, start_new_session=True, stdin=subprocess.DEVNULL)


threading.Thread(target=end_with_parent, daemon=True).start()

try:
    # Not at the top, because ministack chooses its temporary folder when it is imported.
    from ministack.app import main

    main()
finally:
    shutil.rmtree(scratch, ignore_errors=True)
