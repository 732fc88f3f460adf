const common = {
  testEnvironment: 'node',
  restoreMocks: true,
  transform: { '^.+\\.[jt]s$': ['@swc/jest', { jsc: { target: 'es2024', parser: { syntax: 'typescript' } } }] },
  // These packages ship ES modules only.
  transformIgnorePatterns: ['/node_modules/(?!uuid/|@apidevtools/)'],
};

/** @type {import('jest').Config} */
export default {
  // An outer limit for a busy machine. A test judges what happened, not how long it took.
  testTimeout: 300_000,
  projects: [
    {
      ...common,
      displayName: 'unit',
      testMatch: ['<rootDir>/tests/unit/**/*.test.ts'],
      setupFiles: ['<rootDir>/tests/support/environment.ts'],
    },
    ...[
      { displayName: 'model', testMatch: ['<rootDir>/tests/model/!(soak).test.ts'] },
      { displayName: 'soak1', testMatch: ['<rootDir>/tests/model/soak.test.ts'] },
      { displayName: 'soak2', testMatch: ['<rootDir>/tests/model/soak.test.ts'] },
    ].map((project) => ({
      ...common,
      ...project,
      setupFiles: ['<rootDir>/tests/support/environment.ts', '<rootDir>/tests/model/silence.ts'],
    })),
    {
      ...common,
      displayName: 'e2e',
      // The other suites break or delete what they test, so they run only on their own AWS emulator.
      testMatch: [`<rootDir>/tests/e2e/${process.env.API_BASE_URL === undefined ? '*' : 'api'}.test.ts`],
    },
  ],
  collectCoverageFrom: ['src/**/*.ts'],
  coverageProvider: 'v8',
  coverageReporters: ['text'],
  coverageThreshold: { global: { statements: 100, branches: 100, functions: 100, lines: 100 } },
};
