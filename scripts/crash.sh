#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bash scripts/crash.sh BASE_URL [CRASHES]
Submits a job to the local AWS, kills its worker process in each of the first CRASHES attempts (default
1), and follows the job. BASE_URL is the URL that local.sh prints. For Linux and macOS.
Lambda starts the next attempt after about 1 minute, and after a second crash about 2 minutes later.'
case ${1:-} in
  -h | --help) printf '%s\n' "$usage" && exit ;;
esac
[[ ${2:-1} =~ ^[1-3]$ && ${1:-} =~ ^http://[0-9a-z]+\.execute-api\.localhost:([0-9]+)/Prod/?$ ]] ||
  { printf '%s\n' "$usage" >&2 && exit 2; }

# The local AWS of this checkout on this port. The processes of its functions are its children.
export EMULATOR
EMULATOR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/local/emulator.py ${BASH_REMATCH[1]}"
workers() {
  ps -axww -o pid= -o ppid= -o command= | awk '
    substr($0, length($0) - length(ENVIRON["EMULATOR"]) + 1) == ENVIRON["EMULATOR"] { emulator = $1 }
    / .*-WorkerFunction-/ { parent[$1] = $2 }
    END { for (pid in parent) if (parent[pid] == emulator) print pid }'
}

# A worker process without a job would be mistaken for the first attempt.
workers | xargs kill -KILL 2>/dev/null || true
job=$(curl -sS "$1/jobs" -H 'Content-Type: application/json' -d '{"text": "A good job survives a crash"}' |
  sed -n 's/.*"jobId":"\([0-9a-f-]*\)".*/\1/p')
[ -n "$job" ] || { echo "Error: $1 did not accept a job" >&2 && exit 1; }

for ((crash = 1; crash <= ${2:-1}; crash++)); do
  until pid=$(workers) && [ -n "$pid" ]; do sleep 0.2; done
  sleep 1 # By then, the attempt has claimed the job.
  kill -KILL "$pid" 2>/dev/null && echo "        killed attempt $crash"
done &
killer=$!
bash "$(dirname "${BASH_SOURCE[0]}")/poll.sh" "$1" "$job" 600 &
poll=$!
trap 'kill "$killer" "$poll" 2>/dev/null || true' EXIT
wait "$poll"
