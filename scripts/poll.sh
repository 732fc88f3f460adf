#!/usr/bin/env bash
set -euo pipefail
usage='Usage: bash scripts/poll.sh BASE_URL JOB_ID [LIMIT_SECONDS]
       bash scripts/poll.sh JOB_URL [LIMIT_SECONDS]
Polls a job until it ends, for at most LIMIT_SECONDS (default 120). Prints each status once, then the job.
Needs only curl and node.
Exit code: 0 DONE; 1 ERROR; 2 wrong usage; 3 no such job, or an unexpected response; 4 limit reached.'

wrong_usage() {
  printf '%s\n' "$usage" >&2
  exit 2
}

stop() {
  local code=$1
  shift
  printf 'Error: %s\n' "$*" >&2
  exit "$code"
}

case ${1:-} in
  -h | --help)
    printf '%s\n' "$usage"
    exit
    ;;
  http://* | https://*) ;;
  *) wrong_usage ;;
esac
case $1 in
  */jobs/?*)
    job_url=${1%/}
    shift
    ;;
  *)
    base_url=${1%/}
    [[ ${2:-} =~ ^[A-Za-z0-9-]+$ ]] || wrong_usage
    job_url=${base_url%/jobs}/jobs/$2
    shift 2
    ;;
esac
limit=${1:-120}
[[ $# -le 1 && $limit =~ ^[1-9][0-9]{0,4}$ ]] || wrong_usage

for tool in curl node; do
  command -v "$tool" >/dev/null 2>&1 || stop 3 "'$tool' is not installed, or not on PATH"
done

response=$(mktemp -d "${TMPDIR:-/tmp}/poll.XXXXXX")
trap 'rm -rf "$response"' EXIT

# The beginning of the response, without control characters.
excerpt() {
  head -c 300 "$response/body" | LC_ALL=C tr -d '\000-\010\013-\037\177'
}

# Prints how many seconds to wait, from 1 to 30, and the status of the job.
parse() {
  node - "$response/body" "$response/headers" <<'JS'
const { readFileSync } = require('node:fs');
const [body, headers] = process.argv.slice(2).map((file) => readFileSync(file, 'utf8'));
const seconds = Number(/^retry-after:[ \t]*(\d+)\s*$/im.exec(headers)?.[1] ?? 1);
const { status } = JSON.parse(body);
// The shell uses the output in arithmetic, so only a number and a word may come from the server.
if (!/^[A-Z_]{1,40}$/.test(status)) process.exit(1);
console.log(`${Math.min(Math.max(seconds, 1), 30)} ${status}`);
JS
}

# Prints the job.
show() {
  node - "$response/body" <<'JS'
const { readFileSync } = require('node:fs');
console.log(JSON.stringify(JSON.parse(readFileSync(process.argv[2], 'utf8')), null, 2));
JS
}

last=''
while :; do
  left=$((limit - SECONDS))
  [ "$left" -gt 0 ] || stop 4 "the job did not end within $limit s (status: ${last:-unknown}): $job_url"
  code=$(curl --silent --show-error --globoff --max-time "$((left < 30 ? left : 30))" \
    --output "$response/body" --dump-header "$response/headers" --write-out '%{http_code}' "$job_url") ||
    stop 3 "no response from $job_url"
  case $code in
    200) ;;
    404) stop 3 "there is no such job: $job_url" ;;
    *) stop 3 "HTTP $code from $job_url: $(excerpt)" ;;
  esac
  read -r wait status < <(parse 2>/dev/null) ||
    stop 3 "$job_url did not return a job: $(excerpt)"

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
