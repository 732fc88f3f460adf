#!/usr/bin/env bash
# Takes everything away that deploy.sh made: shows what that is, and asks first.
#   scripts/teardown.sh          asks for 'yes'
#   scripts/teardown.sh --yes    does not ask
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/aws/env.sh
. scripts/aws/env.sh

prepare node npm
exec "$NODE" scripts/aws/teardown.ts "$@"
