import { afterEach, expect, test } from '@jest/globals';
import { messageOf } from '../../../scripts/aws/errors.ts';

const errorOf = (name: string, message: string) => Object.assign(new Error(message), { name });

afterEach(() => {
  delete process.env['AWS_PROFILE'];
});

test.each([
  ['InvalidClientTokenId', 'AWS refused the access key: check AWS_ACCESS_KEY_ID in .env or in the shell'],
  ['UnrecognizedClientException', 'AWS refused the access key: check AWS_ACCESS_KEY_ID in .env or in the shell'],
  ['ExpiredToken', 'The session has expired: replace both keys and AWS_SESSION_TOKEN in .env or in the shell'],
  ['CredentialsProviderError', 'There are no credentials: set them in .env'],
])('the message of %s says which setting to change', (name, advice) => {
  const message = messageOf(errorOf(name, 'no'));

  expect(message).toBe(`${advice} (${name}: no)`);
});

test('the message of a credentials error names the profile, if one is used', () => {
  process.env['AWS_PROFILE'] = 'mine';

  const message = messageOf(errorOf('ExpiredTokenException', 'no'));

  expect(message).toBe(
    'The profile mine has no valid credentials: sign in again with aws login or aws sso login (ExpiredTokenException: no)',
  );
});

test('an error of AWS about a signature is one line, without the request that AWS repeats with its session token', () => {
  const reason = 'The request signature we calculated does not match.';

  const message = messageOf(
    errorOf('SignatureDoesNotMatch', `${reason}\n\nThe Canonical String should have been\nx-amz-security-token:s3cret`),
  );

  expect(message).toMatch(/^AWS refused the secret key: [^\n]*\(SignatureDoesNotMatch: [^\n]* does not match\.\)$/);
});
