#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bash scripts/crash.sh [--every-attempt] [--port PORT]
Kills the worker while it runs a job on the local AWS (scripts/local.sh). Lambda retries the job after about
1 minute, and after a second crash about 2 minutes later. For Linux and macOS.
  --every-attempt  kill three attempts, so that the job ends as ERROR and redrive.sh shows its event
  --port PORT      the port of the local AWS (also PORT=...); default 4566'

fail() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

attempts_to_kill=1
port=${PORT:-4566}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) printf '%s\n' "$usage" && exit ;;
    --every-attempt) attempts_to_kill=3 ;;
    --port)
      [ $# -gt 1 ] || fail '--port needs a value'
      port=$2
      shift
      ;;
    --port=*) port=${1#*=} ;;
    *) fail "unknown argument '$1'; see --help" ;;
  esac
  shift
done
[[ $port =~ ^[0-9]+$ ]] || fail 'the port must be a number'
case $(uname -s) in
  MINGW* | MSYS* | CYGWIN*) fail 'crash.sh does not support Windows' ;;
esac

# The process of this checkout's local AWS on this port. The functions' processes are its children.
export EMULATOR
EMULATOR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/local/emulator.py $port"
emulator=$(ps -axww -o pid= -o command= |
  awk '{ e = ENVIRON["EMULATOR"]; if (substr($0, length($0) - length(e) + 1) == e) print $1 }')
[ -n "$emulator" ] || fail "no local AWS of this checkout on port $port; start it with: bash scripts/local.sh"

worker_processes() {
  ps -axww -o pid= -o ppid= -o command= | awk -v parent="$emulator" '$2 == parent && /-WorkerFunction-/ { print $1 }'
}

dynamodb() {
  curl -sS --noproxy '*' --max-time 10 "http://127.0.0.1:$port/" -H "X-Amz-Target: DynamoDB_20120810.$1" \
    -H 'Content-Type: application/x-amz-json-1.0' -d "$2"
}

table=$(dynamodb ListTables '{}' | grep -o 'async-job-processing-demo-JobsTable-[^"]*') ||
  fail 'the local AWS has no jobs table yet'

# The worker's process also exists between two jobs, so the table tells whether an attempt is running.
scan_running() {
  dynamodb Scan '{"TableName": "'"$table"'", "ProjectionExpression": "jobId, attempt",
    "FilterExpression": "#status = :status AND leaseExpiresAt > :now", "ExpressionAttributeNames": {"#status": "status"},
    "ExpressionAttributeValues": {":status": {"S": "IN_PROGRESS"}, ":now": {"N": "'"$(date +%s)"'"}}}'
}

# Not empty, because macOS's grep takes an empty pattern for a match of every line.
killed='none'
for ((count = 0; count < attempts_to_kill; )); do
  scan=$(scan_running)
  # What to print, one line for each attempt.
  attempts=$(grep -Eo '"[SN]": *"[^"]*"' <<<"$scan" | cut -d '"' -f 4 | paste -d ' ' - - |
    sed 's/\(.*\) /Killed the worker of job \1, attempt /' | grep -vxF "$killed") || true
  processes=$(worker_processes)
  if [ -n "$attempts" ]; then
    # An attempt whose process was killed has a lease until that expires.
    killed+=$'\n'$attempts
    [ -n "$processes" ] || continue
    # shellcheck disable=SC2086 # one word for each process
    kill -KILL $processes || continue
    printf '%s\n' "$attempts"
    count=$((count + 1))
  elif [ "$attempts_to_kill" -eq 1 ] && [ "$SECONDS" -ge 20 ]; then
    fail 'no job has been running for 20 s; submit one first'
  fi
  sleep 0.2
done
