#!/usr/bin/env bash
# Follows a job to its end: one line for each status, then the job itself. Needs curl and node only.
#   scripts/poll.sh BASE_URL JOB_ID [LIMIT]
#   scripts/poll.sh JOB_URL [LIMIT]
# LIMIT is in seconds; 120 when it is not given.
# Exit status: 0 DONE; 1 ERROR; 2 wrong usage; 3 no such job, or no good answer; 4 limit reached.
set -euo pipefail

usage() {
  printf 'Usage: scripts/poll.sh BASE_URL JOB_ID [LIMIT_SECONDS]\n       scripts/poll.sh JOB_URL [LIMIT_SECONDS]\n' >&2
  exit 2
}

stop() {
  local code=$1
  shift
  printf 'Error: %s\n' "$*" >&2
  exit "$code"
}

case ${1:-} in
  http://* | https://*) ;;
  *) usage ;;
esac
case $1 in
  */jobs/?*)
    job_url=${1%/}
    shift
    ;;
  *)
    base_url=${1%/}
    [[ ${2:-} =~ ^[A-Za-z0-9-]+$ ]] || usage
    job_url=${base_url%/jobs}/jobs/$2
    shift 2
    ;;
esac
limit=${1:-120}
[[ $# -le 1 && $limit =~ ^[1-9][0-9]{0,4}$ ]] || usage

for tool in curl node; do
  command -v "$tool" >/dev/null 2>&1 || stop 3 "'$tool' is not installed, or not on PATH"
done

answer=$(mktemp -d "${TMPDIR:-/tmp}/poll.XXXXXX")
trap 'rm -rf "$answer"' EXIT

# The beginning of the answer, without what would talk to the terminal.
excerpt() {
  head -c 300 "$answer/body" | LC_ALL=C tr -d '\000-\010\013-\037\177'
}

# Prints how many seconds to wait, from 1 to 30, and the status of the job in the answer.
parse() {
  node - "$answer/body" "$answer/headers" <<'JS'
const { readFileSync } = require('node:fs');
const [body, headers] = process.argv.slice(2).map((file) => readFileSync(file, 'utf8'));
const seconds = Number(/^retry-after:[ \t]*(\d+)\s*$/im.exec(headers)?.[1] ?? 1);
const { status } = JSON.parse(body);
// The shell calculates with what it reads here: nothing but a number and a word may come from the server.
if (!/^[A-Z_]{1,40}$/.test(status)) process.exit(1);
console.log(`${Math.min(Math.max(seconds, 1), 30)} ${status}`);
JS
}

# Prints the job, for reading.
show() {
  node - "$answer/body" <<'JS'
const { readFileSync } = require('node:fs');
console.log(JSON.stringify(JSON.parse(readFileSync(process.argv[2], 'utf8')), null, 2));
JS
}

last=''
while :; do
  left=$((limit - SECONDS))
  [ "$left" -gt 0 ] || stop 4 "the job has not ended within $limit s (status: ${last:-unknown}): $job_url"
  code=$(curl --silent --show-error --globoff --max-time "$((left < 30 ? left : 30))" \
    --output "$answer/body" --dump-header "$answer/headers" --write-out '%{http_code}' "$job_url") ||
    stop 3 "no answer from $job_url"
  case $code in
    200) ;;
    404) stop 3 "there is no such job: $job_url" ;;
    *) stop 3 "HTTP $code from $job_url: $(excerpt)" ;;
  esac
  read -r wait status < <(parse 2>/dev/null) ||
    stop 3 "the answer of $job_url is no job: $(excerpt)"

  if [ "$status" != "$last" ]; then
    printf '%4d s  %s\n' "$SECONDS" "$status"
    last=$status
  fi
  case $status in
    DONE | ERROR)
      show
      [ "$status" = DONE ] || stop 1 "the job ended as ERROR"
      exit 0
      ;;
    PENDING | IN_PROGRESS) ;;
    *) stop 3 "the job has the unknown status '$status': $job_url" ;;
  esac
  left=$((limit - SECONDS))
  sleep "$((wait < left ? wait : (left > 0 ? left : 0)))"
done
