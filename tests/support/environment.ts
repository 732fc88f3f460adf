// Sets the functions' environment variables from template.yaml before a test loads a handler.
import { nodeAt, readTemplate } from '../../scripts/template.ts';

const template = readTemplate();
const functions = Object.values(nodeAt(template, 'Resources'));
for (const owner of [nodeAt(template, 'Globals', 'Function'), ...functions.map((node) => nodeAt(node, 'Properties'))]) {
  for (const [name, value] of Object.entries(nodeAt(owner, 'Environment', 'Variables'))) {
    // References to resources and parameters are set below.
    if (typeof value === 'string') process.env[name] = value;
  }
}

Object.assign(process.env, {
  AWS_REGION: 'us-east-1',
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  JOBS_TABLE_NAME: 'JobsTable',
  WORKER_FUNCTION_NAME: 'WorkerFunction',
  WORKER_MAX_EVENT_AGE_SECONDS: '21600',
  WORKER_TIMEOUT_SECONDS: '30',
  EXPECTED_JOB_SECONDS: '5',
  CORS_ORIGIN: '',
  JOB_ID_NAMESPACE: 'arn:aws:cloudformation:us-east-1:123456789012:stack/test/00000000-0000-4000-8000-000000000000',
  POWERTOOLS_SERVICE_NAME: 'test',
  // Makes Powertools log through the global console, which tests can capture.
  POWERTOOLS_DEV: 'true',
  // POWERTOOLS_DEV turns metrics off unless this is set.
  POWERTOOLS_METRICS_DISABLED: 'false',
});
