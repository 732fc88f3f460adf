#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: bash scripts/local.sh [--once] [--text TEXT] [--port PORT] [--page-port PORT]
Runs the application on this machine: installs what is missing, deploys to the AWS emulator, runs one job, and serves
the API and a page until Ctrl-C. Each change in src/ or template.yaml is then built and deployed.
  --once, --text TEXT  exit after the job, with exit code 0 if it is DONE; the text of the job
  --port PORT          the port of the AWS emulator (also PORT=...); default 4566
  --page-port PORT     the port of the page and the API; default 4580, or the next one that is free' "$@"

# Checked before anything is installed.
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --once | --port=* | --page-port=* | --text=*) ;;
    --port | --page-port | --text) [ $((i++)) -lt $# ] || fail "${!#} needs a value; see --help" ;;
    *) fail "unknown argument '${!i}'; see --help" ;;
  esac
done
need_npm_packages
need_sam
need_emulator
exec node_modules/.bin/node --disable-warning=ExperimentalWarning scripts/local/serve.ts "$@"
