#!/usr/bin/env bash
# Builds the application and deploys it to AWS, with the settings of .env (see example.env).
# Ends by printing the endpoints, and a curl command that submits a job.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/aws/env.sh
. scripts/aws/env.sh

[ $# -eq 0 ] || fail 'usage: scripts/deploy.sh (its settings are in .env)'
prepare sam node npm

echo 'Checking types ...'
npm run --silent test:types || fail 'the types do not check: nothing was deployed'

echo 'Building ...'
sam build || fail 'sam build failed: nothing was deployed'

echo "Deploying the stack $STACK_NAME to $AWS_DEFAULT_REGION ..."
# The artifacts get a folder of their own, so that teardown.sh can tell them from others'.
sam deploy --stack-name "$STACK_NAME" --s3-prefix "$STACK_NAME" --region "$AWS_DEFAULT_REGION" ||
  fail "sam deploy failed, as it says above. Where a first deployment failed (ROLLBACK_COMPLETE), run scripts/teardown.sh before the next"

"$NODE" scripts/aws/endpoints.ts
