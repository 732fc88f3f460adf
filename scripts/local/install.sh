# shellcheck shell=bash
# Sourced by the other scripts: finds or installs tools in this checkout, runs steps, and starts TypeScript.
# Changes to the root of the checkout. Works with bash 3.2 and later.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$ROOT" || exit
LOGS="$ROOT/.tools/logs"

# The first SAM CLI 1.x whose start-lambda accepts asynchronous invocations (docs/sam-local.md).
OLDEST_SAM_MINOR=154

fail() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

# usage TEXT ARGUMENT...: prints the text and ends the script if an argument asks for help.
usage() {
  local text=$1 argument
  shift
  for argument in "$@"; do
    [[ $argument =~ ^(-h|--help)$ ]] || continue
    printf '%s\n' "$text"
    exit
  done
}

# ------------------------------------------------------------------------------------------ steps

# The process group of the current step. It is killed if this script is interrupted.
step_group=''

interrupted() {
  trap '' INT TERM HUP
  printf '\ninterrupted\n' >&2
  if [ -n "$step_group" ] && kill -TERM -- "-$step_group" 2>/dev/null; then
    sleep 2
    kill -KILL -- "-$step_group" 2>/dev/null || true
  fi
  exit "$1"
}
trap 'interrupted 130' INT
trap 'interrupted 143' TERM HUP

# step TITLE LOG COMMAND...: runs the command with its output in LOG. Prints the title and the time that
# it took. Returns its exit code.
step() {
  local title="$1" log="$2" code=0 started=$SECONDS
  shift 2
  mkdir -p "$LOGS"
  printf '%s ... ' "$title"
  # Monitor mode gives the command a process group of its own.
  set -m
  "$@" </dev/null >"$log" 2>&1 &
  step_group=$!
  set +m
  wait "$step_group" || code=$?
  step_group=''
  [ "$code" -eq 0 ] || printf 'failed after '
  printf '%s s\n' "$((SECONDS - started))"
  return "$code"
}

# must TITLE NAME COMMAND...: a step of the installation. Ends the script if it fails.
must() {
  local title="$1" log="$LOGS/install-$2.log"
  shift 2
  step "$title" "$log" "$@" && return
  tail -n 15 "$log" >&2
  fail "$title failed; see $log for the full output"
}

# ------------------------------------------------------------------------------------------ tools

# Installs the npm packages of the lock file. One of them is Node 24, which runs the functions.
need_npm_packages() {
  { command -v node && command -v npm; } >/dev/null || fail 'Node.js 20 or newer with npm is needed: https://nodejs.org'
  node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' ||
    fail "Node.js 20 or newer is needed, but this is $(node --version): https://nodejs.org"
  # npm writes this file last.
  local installed=node_modules/.package-lock.json
  if [ ! -f "$installed" ] || [ package-lock.json -nt "$installed" ]; then
    must 'Installing the npm packages' npm npm ci --no-audit --no-fund
  fi
  [[ $(node_modules/.bin/node --version 2>/dev/null) == v24.* ]] ||
    fail "The npm package 'node' did not install Node 24; delete node_modules and run this again"
}

# Sets `python` to a Python that can make virtual environments.
find_python() {
  for python in python3 python py; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 || continue
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 && return
    fail "Python's venv is missing; on Debian and Ubuntu: sudo apt install python3-venv"
  done
  fail 'Python 3.10 or newer is needed (as python3, python or py): https://www.python.org/downloads'
}

# The folder of a virtual environment's programs.
programs_of() {
  if [ -d ".tools/$1/Scripts" ]; then printf '%s' "$ROOT/.tools/$1/Scripts"; else printf '%s' "$ROOT/.tools/$1/bin"; fi
}

# need_venv NAME TITLE: a virtual environment in .tools/NAME with the packages pinned in
# scripts/local/requirements-NAME.txt. Recreated if the pins have changed, if it is incomplete, if its
# Python is gone, or if the checkout was moved.
need_venv() {
  local name="$1" title="$2" pins="scripts/local/requirements-$1.txt" stamp=".tools/$1/installed.txt" wanted
  wanted="$ROOT
$(cat "$pins")"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$(programs_of "$name")/python" -c '' 2>/dev/null; then return; fi
  find_python
  rm -rf ".tools/$name"
  must "Installing $title" "$name" make_venv "$name" "$pins"
  printf '%s\n' "$wanted" >"$stamp"
}

make_venv() {
  "$python" -m venv ".tools/$1" &&
    "$(programs_of "$1")/python" -m pip install --disable-pip-version-check --no-input -r "$2"
}

# Whether the SAM CLI on PATH is recent enough.
has_sam() {
  [[ $(SAM_CLI_TELEMETRY=0 sam --version 2>/dev/null) =~ version\ ([0-9]+)\.([0-9]+) ]] || return
  [ "${BASH_REMATCH[1]}" -gt 1 ] || { [ "${BASH_REMATCH[1]}" -eq 1 ] && [ "${BASH_REMATCH[2]}" -ge "$OLDEST_SAM_MINOR" ]; }
}

# Installs a SAM CLI and puts it first on PATH, unless the one on PATH is recent enough.
need_sam() {
  if has_sam; then return; fi
  need_venv sam 'the SAM CLI'
  PATH="$(programs_of sam):$PATH"
}

# Like need_sam, but installs nothing: the person who deploys may want to choose the SAM CLI.
require_sam() {
  has_sam || PATH="$(programs_of sam):$PATH"
  has_sam || fail "SAM CLI 1.$OLDEST_SAM_MINOR or newer is needed as 'sam' on PATH (bash scripts/local.sh installs one into .tools)"
}

need_emulator() {
  need_venv ministack 'ministack, the AWS emulator'
}

# ------------------------------------------------------------------------------------------ TypeScript

# operate NAME ARGUMENT...: runs scripts/aws/NAME.ts with the settings of .env or of the AWS emulator.
operate() {
  need_npm_packages
  exec node_modules/.bin/node --import ./scripts/aws/environment.ts "scripts/aws/$1.ts" "${@:2}"
}
