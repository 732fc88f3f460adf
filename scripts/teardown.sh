#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: bash scripts/teardown.sh [--yes]
Deletes everything that deploy.sh created: the stack with all jobs and logs, and its build
artifacts. Shows what that is and asks first, unless --yes is given.
Stack name, region and credentials come from .env (see example.env).' "$@"

operate teardown "$@"
