import { expect, test } from '@jest/globals';
import { messageOf } from '../../../scripts/aws/errors.ts';

test('an error of AWS about a signature is one line, without the request that AWS repeats with its session token', () => {
  const error = new Error(
    'The request signature we calculated does not match.\n\nThe Canonical String should have been\nx-amz-security-token:s3cret',
  );
  error.name = 'SignatureDoesNotMatch';

  const message = messageOf(error);

  expect(message).toMatch(/^AWS refused the secret key: [^\n]*\(SignatureDoesNotMatch: [^\n]* does not match\.\)$/);
});
