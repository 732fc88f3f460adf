/** The value of an environment variable. Throws an Error that names it if it is absent or empty. */
export function requireEnv(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === '') throw new Error(`Environment variable ${name} is not set`);
  return value;
}

/** The value of an environment variable, or an empty string if it is absent. */
export const optionalEnv = (name: string): string => process.env[name] ?? '';

/**
 * The value of an environment variable in whole seconds. Throws an Error that names the variable if
 * it is absent or not a positive whole number.
 */
export function requireSeconds(name: string): number {
  const value = requireEnv(name);
  if (!/^[1-9]\d{0,8}$/.test(value)) {
    throw new Error(`Environment variable ${name} must be a positive whole number of seconds, not '${value}'`);
  }
  return Number(value);
}
