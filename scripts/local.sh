#!/usr/bin/env bash
# The whole application on this machine: installs what is missing, deploys the template to a local
# AWS, runs one job, and serves until Ctrl-C.
#
#   bash scripts/local.sh [--once] [--port PORT]
#
# --once ends after the job; the port (also: PORT=...) is 4566 if none is given.
set -euo pipefail
# shellcheck source=scripts/local/install.sh
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"

# Before anything is installed.
for argument in "$@"; do
  case $argument in
    --once | --port | --port=* | [0-9]*) ;;
    *) fail 'usage: bash scripts/local.sh [--once] [--port PORT]' ;;
  esac
done

need_npm_packages
need_sam
need_local_aws
exec node_modules/.bin/node scripts/local/serve.ts "$@"
