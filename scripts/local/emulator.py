"""Runs ministack, the AWS emulator, until the parent process closes standard input or dies.

Then kills ministack with all Lambda functions that it runs, and deletes the folder for temporary
files. emulator.ts starts this script in its own process group.

Appends to the file REPORTS_FILE what the functions do while they do it: the local page shows it.
ministack's own CloudWatch Logs have the lines of an invocation only after it has ended.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

os.environ["GATEWAY_PORT"] = sys.argv.pop()
scratch = os.environ["TMPDIR"]

# Lambda's first try and its two retries: MaximumRetryAttempts in template.yaml.
MAX_TRIES = 3
# Before the first and the last retry of a throttled event.
THROTTLE_WAIT_SECONDS = (1, 300)
DEFAULT_MAX_AGE_SECONDS = 21600


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


def report_functions(lambda_svc, worker_class):
    """Adds a JSON line to the file for each log line, and when a try of a worker's event starts, ends or is scheduled."""
    file = os.open(os.environ["REPORTS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def report(kind, function, **fields):
        record = {"kind": kind, "time": int(time.time() * 1000), "function": function, **fields}
        os.write(file, (json.dumps(record) + "\n").encode())

    class QueuedEvent(dict):
        """An event in Lambda's asynchronous queue. Each try of ministack gets the same object."""

        tries = 0

    queue_event, execute, invoke = lambda_svc.invoke_async_with_retry, lambda_svc._execute_function, worker_class.invoke

    def reported_queue_event(func, event):
        if isinstance(event, dict) and "jobId" in event:
            config = (func.get("event_invoke_configs") or {}).get("$LATEST", {})
            event = QueuedEvent(event)
            event.expires_at = time.time() + config.get("MaximumEventAgeInSeconds", DEFAULT_MAX_AGE_SECONDS)
        queue_event(func, event)

    def report_retry(func, event, wait):
        at = int((time.time() + wait) * 1000)
        report("retry", func["config"]["FunctionName"], jobId=event["jobId"], at=at)

    def reported_execute(func, event):
        result = execute(func, event)
        if not isinstance(event, QueuedEvent):
            return result
        # Lambda repeats a throttled try until the event is too old. For ministack it would be a failed try.
        wait, longest = THROTTLE_WAIT_SECONDS
        while result.get("throttle") and time.time() + wait < event.expires_at:
            report_retry(func, event, wait)
            time.sleep(wait)
            wait = min(2 * wait, longest)
            result = execute(func, event)
        if result.get("error"):
            event.tries += 1
            if event.tries < MAX_TRIES:
                # invoke_async_with_retry, which called this, now waits for as long.
                wait = lambda_svc._LAMBDA_ASYNC_RETRY_BASE_SECONDS * 2 ** (event.tries - 1)
                report_retry(func, event, min(wait, lambda_svc._LAMBDA_ASYNC_RETRY_MAX_SECONDS))
        return result

    def reported_invoke(self, event, request_id, **options):
        self.request_id = request_id
        if not (isinstance(event, dict) and "jobId" in event):
            return invoke(self, event, request_id, **options)
        job = {"jobId": event["jobId"], "requestId": request_id}
        report("start", self.func_name, **job)
        error = "The process did not start"
        try:
            response = invoke(self, event, request_id, **options)
            error = response["error"] if response["status"] == "error" else None
            return response
        finally:
            report("end", self.func_name, **job, error=error)

    def reported_stderr(self):
        process, lines = self._proc, self._stderr_queue
        for line in process.stderr:
            text = line.rstrip("\n")
            report("line", self.func_name, requestId=self.request_id, pid=process.pid, text=text)
            lines.put(text)

    lambda_svc.invoke_async_with_retry = reported_queue_event
    lambda_svc._execute_function = reported_execute
    worker_class.invoke = reported_invoke
    worker_class._read_stderr = reported_stderr


threading.Thread(target=end_with_parent, daemon=True).start()

try:
    # Not at the top, because ministack chooses its temporary folder when it is imported.
    from ministack.app import main
    from ministack.core.lambda_runtime import Worker
    from ministack.services import lambda_svc

    report_functions(lambda_svc, Worker)
    main()
finally:
    shutil.rmtree(scratch, ignore_errors=True)
