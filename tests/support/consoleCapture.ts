import { jest } from '@jest/globals';

/** Captures and hides all console output from now on, one string per call. */
export function captureConsole(): readonly string[] {
  const lines: string[] = [];
  for (const method of ['log', 'info', 'warn', 'error', 'debug', 'trace'] as const) {
    jest.spyOn(console, method).mockImplementation((...parts) => {
      lines.push(parts.map(String).join(' '));
    });
  }
  return lines;
}
