#!/usr/bin/env bash
# Tests the API on the AWS emulator against openapi.yaml, with requests that schemathesis generates:
# `npm run test:fuzz`. Arguments go to `schemathesis run`, for example --max-time 600 or --seed 1.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/install.sh"

need_npm_packages
need_sam
need_emulator
need_venv schemathesis 'schemathesis'
PATH="$(programs_of schemathesis):$PATH" exec node_modules/.bin/node scripts/local/fuzz.ts "$@"
