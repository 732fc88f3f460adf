"""Runs ministack, the local AWS, for as long as the process that started it lives.

Standard input is that process's hand on it: when it is closed, by intent or because the process
died of whatever, ministack and every Lambda function that it runs go too, and so do their files.
Started by localAws.ts, in a process group of its own.
"""

import os
import shutil
import subprocess
import tempfile
import threading

scratch = tempfile.mkdtemp(prefix="local-aws-")
tempfile.tempdir = os.environ["TMPDIR"] = scratch


def end_with_parent():
    while os.read(0, 1024):
        pass
    if os.name == "nt":
        shutil.rmtree(scratch, ignore_errors=True)
        subprocess.call(["taskkill", "/pid", str(os.getpid()), "/t", "/f"])
    else:
        # From outside of this process group, and the files last, so that nothing writes new ones.
        end = ["sh", "-c", 'kill -s KILL -- "-$1"; rm -rf "$2"', "sh", str(os.getpgrp()), scratch]
        subprocess.Popen(end, start_new_session=True, stdin=subprocess.DEVNULL)


threading.Thread(target=end_with_parent, daemon=True).start()

try:
    # Only now, because ministack looks for its temporary folder when it is imported.
    from ministack.app import main

    main()
finally:
    shutil.rmtree(scratch, ignore_errors=True)
