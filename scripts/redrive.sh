#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: bash scripts/redrive.sh [--send]
Lists the failed events, which are those that Lambda gave up on. With --send, starts their jobs again and
deletes the events from the queue. Jobs that have ended, or do not exist, are not started.
Stack name, region and credentials come from .env (see example.env). For the AWS emulator instead:
  AWS_ENDPOINT_URL=http://127.0.0.1:4566 bash scripts/redrive.sh' "$@"

operate redrive "$@"
