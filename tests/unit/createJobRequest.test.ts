import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseIdempotencyKey, parseText } from '../../src/createJobRequest.ts';
import { HttpError } from '../../src/http.ts';
import { MAX_TEXT_BYTES, sizeAsJson } from '../../src/job.ts';
import { postJobEvent } from '../support/events.ts';

/** The HttpError that `parse` throws, as the client sees it. */
function httpErrorOf(parse: () => unknown): { status: number; error: string } {
  try {
    parse();
  } catch (error) {
    if (error instanceof HttpError) return { status: error.status, error: error.message };
    throw error;
  }
  throw new Error('No error was thrown');
}

const httpErrorOfBody = (body: string | null, isBase64Encoded = false) =>
  httpErrorOf(() => parseText(postJobEvent(body, { isBase64Encoded })));

const INVALID_JSON = { status: 400, error: 'Invalid JSON in request body' };
const NO_TEXT = { status: 400, error: "Field 'text' is required and must not be empty" };
const NOT_AN_OBJECT = { status: 400, error: 'Request body must be a JSON object' };
const NOT_A_STRING = { status: 400, error: "Field 'text' must be a string" };
const NOT_WELL_FORMED = { status: 400, error: "Field 'text' must be well-formed Unicode" };
const TOO_LONG = { status: 413, error: `Field 'text' must not exceed ${MAX_TEXT_BYTES} bytes as JSON` };

test('the text of a POST is trimmed, and otherwise unchanged', () => {
  expect(parseText(postJobEvent('{"text": "\\u00a0\\n\\t two  words \\ud83d\\ude00\\u3000\\r\\n"}'))).toBe(
    'two  words 😀',
  );
});

test('the text of a POST can be any well-formed string that is not blank', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      fc.pre(text.trim() !== '');
      const body = JSON.stringify({ text });
      expect(parseText(postJobEvent(body))).toBe(text.trim());
      expect(parseText(postJobEvent(Buffer.from(body).toString('base64'), { isBase64Encoded: true }))).toBe(
        text.trim(),
      );
    }),
  );
});

test.each([
  ['one byte order mark is ignored', '\ufeff{"text": "a"}', 'a'],
  ['a byte order mark inside the text is kept', '{"text": "a\ufeffb"}', 'a\ufeffb'],
  ['fields of any other name are ignored', '{"__proto__": {"x": 1}, "constructor": null, "text": "a"}', 'a'],
])('the text of a POST is the same from a plain body and from base64: %s', (_what, body, text) => {
  const texts = [
    parseText(postJobEvent(body)),
    parseText(postJobEvent(Buffer.from(body).toString('base64'), { isBase64Encoded: true })),
  ];

  expect(texts).toEqual([text, text]);
});

test('a POST without a body is rejected, because a text is required', () => {
  expect(httpErrorOfBody(null)).toEqual(NO_TEXT);
});

test.each([
  ['is empty', '', NO_TEXT],
  ['has an empty text', '{"text": ""}', NO_TEXT],
  ['has a blank text', '{"text": " \\n\\t\\u00a0\\u3000"}', NO_TEXT],
  ['has a text only in the prototype', '{"__proto__": {"text": "a"}}', NO_TEXT],
  ['is null', 'null', NOT_AN_OBJECT],
  ['is a number', '5', NOT_AN_OBJECT],
  ['is an array', '[{"text": "a"}]', NOT_AN_OBJECT],
  ['is a million nested arrays', '['.repeat(1_000_000) + ']'.repeat(1_000_000), NOT_AN_OBJECT],
  ['has a text that is null', '{"text": null}', NOT_A_STRING],
  ['has a text that is a number', '{"text": 5}', NOT_A_STRING],
  ['has a million nested arrays as text', `{"text": ${'['.repeat(1_000_000)}${']'.repeat(1_000_000)}}`, NOT_A_STRING],
  ['is half an object', '{"text": "a"', INVALID_JSON],
  ['is form data', 'text=a', INVALID_JSON],
  ['has two byte order marks', '\ufeff\ufeff{"text": "a"}', INVALID_JSON],
  ['is a million open brackets', '['.repeat(1_000_000), INVALID_JSON],
  ['has a text with half a surrogate pair', '{"text": "a\\udc00b"}', NOT_WELL_FORMED],
])('a POST is rejected if its body %s, plain or in base64', (_what, body, error) => {
  expect(httpErrorOfBody(body)).toEqual(error);
  expect(httpErrorOfBody(Buffer.from(body).toString('base64'), true)).toEqual(error);
});

test.each([
  ['not UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]).toString('base64')],
  ['a surrogate encoded as UTF-8', Buffer.from('7b2274657874223a22eda080227d', 'hex').toString('base64')],
  ['not base64', '§§§§'],
])('a POST with a base64 body is rejected as invalid JSON if the body is %s', (_what, body) => {
  expect(httpErrorOfBody(body, true)).toEqual(INVALID_JSON);
});

test.each([
  ['one byte', 'x'],
  ['two bytes', 'é'],
  ['two bytes when escaped', '"'],
  ['six bytes when escaped', '\u0001'],
])('a text with characters of %s is limited by its size as JSON', (_bytes, character) => {
  const characters = character.repeat(Math.floor(MAX_TEXT_BYTES / sizeAsJson(character)));
  const longest = characters + 'x'.repeat(MAX_TEXT_BYTES - sizeAsJson(characters));

  expect(parseText(postJobEvent(JSON.stringify({ text: ` ${longest} ` })))).toBe(longest);
  expect(httpErrorOfBody(JSON.stringify({ text: `${longest}x` }))).toEqual(TOO_LONG);
});

const keyOf = (value: string) => parseIdempotencyKey(postJobEvent(null, { headers: { 'Idempotency-Key': value } }));
const MALFORMED = {
  status: 400,
  error: "Header 'Idempotency-Key' must be one string of 1 to 255 printable ASCII characters",
};

test('the idempotency key is undefined if the header is absent', () => {
  expect(parseIdempotencyKey(postJobEvent(null))).toBeUndefined();
  expect(parseIdempotencyKey(postJobEvent(null, { headers: { 'Idempotency-Key': undefined } }))).toBeUndefined();
});

test('the idempotency key is read from a header in any case, and once if it is also in multiValueHeaders', () => {
  const both = { headers: { 'Idempotency-Key': 'k' }, multiValueHeaders: { 'Idempotency-Key': ['k'] } };

  expect(parseIdempotencyKey(postJobEvent(null, both))).toBe('k');
  expect(parseIdempotencyKey(postJobEvent(null, { multiValueHeaders: { 'IDEMPOTENCY-key': ['k'] } }))).toBe('k');
});

test.each([
  ['"a b"', 'a b'],
  ['"a\\"b"', 'a"b'],
  ['"a\\\\b"', 'a\\b'],
  ['a\\b', 'a\\b'],
  ['!~', '!~'],
  ['  "key"\t', 'key'],
  ['" "', ' '],
])('the idempotency key %s is parsed as %j', (value, key) => {
  expect(keyOf(value)).toBe(key);
});

test('the idempotency key round-trips through the quoting of the IETF draft', () => {
  const printable = fc.string({
    unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  });
  fc.assert(
    fc.property(printable, (key) => {
      fc.pre(key !== '');
      expect(keyOf(`"${key.replace(/["\\]/g, '\\$&')}"`)).toBe(key);
    }),
  );
});

test('the idempotency key has 1 to 255 characters, not counting the enclosing quotes and the escapes', () => {
  expect(keyOf('k'.repeat(255))).toHaveLength(255);
  expect(keyOf(`"${'\\"'.repeat(255)}"`)).toBe('"'.repeat(255));
  expect(httpErrorOf(() => keyOf('k'.repeat(256)))).toEqual(MALFORMED);
  expect(httpErrorOf(() => keyOf(`"${'\\"'.repeat(256)}"`))).toEqual(MALFORMED);
});

const unquoted = ['', 'a"b', 'a b', 'é', 'a\u007f'];
const quoted = ['""', '"', '"a', '"a"b"', '"a\\"', '"\\a"', '"é"', '"a\u001f"', '"a\u007f"', '"a";p=1', '"a", "b"'];

test.each([...unquoted, ...quoted])('the idempotency key must not be %j', (value) => {
  expect(httpErrorOf(() => keyOf(value))).toEqual(MALFORMED);
});

test('the idempotency key must not occur twice', () => {
  const twice = { multiValueHeaders: { 'Idempotency-Key': ['k', 'k'] } };

  expect(httpErrorOf(() => parseIdempotencyKey(postJobEvent(null, twice)))).toEqual(MALFORMED);
});
