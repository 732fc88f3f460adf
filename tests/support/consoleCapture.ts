import { jest } from '@jest/globals';

/** What goes to the console from now on, one string per call; nothing of it is shown. */
export function captureConsole(): readonly string[] {
  const lines: string[] = [];
  for (const method of ['log', 'info', 'warn', 'error', 'debug', 'trace'] as const) {
    jest.spyOn(console, method).mockImplementation((...parts) => {
      lines.push(parts.map(String).join(' '));
    });
  }
  return lines;
}
