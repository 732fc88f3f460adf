#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/aws/env.sh
. scripts/aws/env.sh

usage 'Usage: bash scripts/logs.sh JOB_ID
Prints what the three functions logged about a job in chronological order, with the errors and their
causes. Stack name, region and credentials come from .env (see example.env).
For the local AWS instead: AWS_ENDPOINT_URL=http://127.0.0.1:4566 bash scripts/logs.sh JOB_ID' "$@"

prepare node npm
exec "$NODE" scripts/aws/logs.ts "$@"
