// What template.yaml gives the functions, set before a test loads a handler.
Object.assign(process.env, {
  AWS_REGION: 'us-east-1',
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  JOBS_TABLE_NAME: 'JobsTable',
  WORKER_FUNCTION_NAME: 'WorkerFunction',
  WORKER_MAX_EVENT_AGE_SECONDS: '21600',
  WORKER_TIMEOUT_SECONDS: '30',
  JOB_ID_NAMESPACE: 'arn:aws:cloudformation:us-east-1:123456789012:stack/test/00000000-0000-4000-8000-000000000000',
  POWERTOOLS_SERVICE_NAME: 'test',
  POWERTOOLS_METRICS_NAMESPACE: 'AsyncJobs',
  // Powertools then logs through the global console, where a test can listen.
  POWERTOOLS_DEV: 'true',
  // It would switch metrics off.
  POWERTOOLS_METRICS_DISABLED: 'false',
});
