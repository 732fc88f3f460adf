#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: bash scripts/logs.sh JOB_ID [--since TIME]
Prints what the three functions logged about a job in chronological order, with the errors and their
causes. Looks at the last day, or since TIME: for example 90m, 6h or 14d.
Stack name, region and credentials come from .env (see example.env). For the AWS emulator instead:
  AWS_ENDPOINT_URL=http://127.0.0.1:4566 bash scripts/logs.sh JOB_ID' "$@"

operate logs "$@"
