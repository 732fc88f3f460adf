#!/usr/bin/env bash
# Shows what the three functions logged about one job, in the order of time.
#   scripts/logs.sh JOB_ID
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/aws/env.sh
. scripts/aws/env.sh

prepare node npm
exec "$NODE" scripts/aws/logs.ts "$@"
