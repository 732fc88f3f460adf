/** What to do about credential errors of AWS services and the SDK, by error name without `Exception`. */
const CREDENTIALS_ERRORS = new Map([
  ['InvalidClientTokenId', 'AWS refused the access key: check AWS_ACCESS_KEY_ID in .env or in the shell'],
  ['UnrecognizedClient', 'AWS refused the access key: check AWS_ACCESS_KEY_ID in .env or in the shell'],
  ['SignatureDoesNotMatch', 'AWS refused the secret key: check AWS_SECRET_ACCESS_KEY in .env or in the shell'],
  ['ExpiredToken', 'The session has expired: replace both keys and AWS_SESSION_TOKEN in .env or in the shell'],
  ['CredentialsProviderError', 'There are no credentials: set them in .env'],
  ['TokenProviderError', 'There are no credentials: set them in .env'],
]);

/** An error as one line. If AWS refused the credentials, it says which setting to change. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const message = error.name === 'Error' ? error.message : `${error.name}: ${error.message}`;
  const advice = CREDENTIALS_ERRORS.get(error.name.replace(/Exception$/, ''));
  if (advice === undefined) return message;
  // After the first line AWS may repeat the request, with its session token.
  const reason = message.split('\n', 1)[0];
  const profile = process.env['AWS_PROFILE'];
  return profile
    ? `The profile ${profile} has no valid credentials: sign in again with aws login or aws sso login (${reason})`
    : `${advice} (${reason})`;
}
