#!/usr/bin/env bash
set -euo pipefail
usage="Usage: bash scripts/local.sh [--once] [--text TEXT] [--port PORT]
Runs the application on this machine: installs what is missing, deploys to a local AWS, runs one job, and
serves the API until Ctrl-C. Each change in src/ or template.yaml is then built and deployed.
  --once       exit after the job, with exit code 0 if it is DONE
  --text TEXT  the text of the job
  --port PORT  the port of the local AWS (also PORT=...); default 4566"
# shellcheck source=scripts/local/install.sh
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"

# Runs before anything is installed.
check_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        printf '%s\n' "$usage"
        exit
        ;;
      --once | --port=* | --text=*) ;;
      --port | --text)
        [ $# -gt 1 ] || fail "$1 needs a value; see --help"
        shift
        ;;
      *) fail "unknown argument '$1'; see --help" ;;
    esac
    shift
  done
}

check_arguments "$@"
need_npm_packages
need_sam
need_local_aws
exec node_modules/.bin/node scripts/local/serve.ts "$@"
