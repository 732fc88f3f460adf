#!/usr/bin/env bash
# Shows the failed events: those that Lambda gave up on. With --send, starts their jobs again.
#   scripts/redrive.sh           only shows them
#   scripts/redrive.sh --send    sends each to the worker again, and deletes it from the queue
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/aws/env.sh
. scripts/aws/env.sh

prepare node npm
exec "$NODE" scripts/aws/redrive.ts "$@"
