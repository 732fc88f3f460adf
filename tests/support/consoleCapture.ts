import { beforeEach, jest } from '@jest/globals';

/** Captures and hides all console output of each test of a file. Returns that of the current test, one string per call. */
export function captureConsole(): readonly string[] {
  const lines: string[] = [];
  beforeEach(() => {
    lines.length = 0;
    for (const method of ['log', 'info', 'warn', 'error', 'debug', 'trace'] as const) {
      jest.spyOn(console, method).mockImplementation((...parts) => {
        lines.push(parts.map(String).join(' '));
      });
    }
  });
  return lines;
}

/** The metrics of one invocation, in CloudWatch's embedded metric format. */
interface MetricsLine {
  readonly _aws: { readonly CloudWatchMetrics: readonly [{ readonly Metrics: readonly { readonly Name: string }[] }] };
  readonly [metric: string]: unknown;
}

/** The metrics that captured output contains, by name. */
export function metricsIn(log: readonly string[]): Record<string, unknown> {
  const metrics: Record<string, unknown> = {};
  for (const line of log.filter((text) => text.includes('"_aws"'))) {
    const sent: MetricsLine = JSON.parse(line);
    for (const { Name } of sent._aws.CloudWatchMetrics[0].Metrics) metrics[Name] = sent[Name];
  }
  return metrics;
}
