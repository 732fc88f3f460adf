import { describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { parseIdempotencyKey, parseText } from '../../src/createJobRequest.ts';
import { HttpError } from '../../src/http.ts';
import { MAX_TEXT_BYTES, sizeAsJson } from '../../src/job.ts';
import { postJobs } from '../support/events.ts';

// The machine may be busy with other things.
jest.setTimeout(60_000);

/** The refusal that `parse` throws, as the client sees it. */
function refusalOf(parse: () => unknown): { status: number; error: string } {
  try {
    parse();
  } catch (error) {
    if (error instanceof HttpError) return { status: error.status, error: error.message };
    throw error;
  }
  throw new Error('Nothing was refused');
}

const refusalOfBody = (body: string | null, isBase64Encoded = false) =>
  refusalOf(() => parseText(postJobs(body, { isBase64Encoded })));

const INVALID_JSON = { status: 400, error: 'Invalid JSON in request body' };
const NO_TEXT = { status: 400, error: "Field 'text' is required and must not be empty" };
const NO_OBJECT = { status: 400, error: 'Request body must be a JSON object' };
const NO_STRING = { status: 400, error: "Field 'text' must be a string" };
const NOT_WELL_FORMED = { status: 400, error: "Field 'text' must be well-formed Unicode" };
const TOO_LONG = { status: 413, error: `Field 'text' must not exceed ${MAX_TEXT_BYTES} bytes as JSON` };

describe('the text of a POST', () => {
  test('is trimmed of surrounding white space and otherwise as it was sent', () => {
    expect(parseText(postJobs('{"text": "\\u00a0\\n\\t two  words \\ud83d\\ude00\\u3000\\r\\n"}'))).toBe(
      'two  words 😀',
    );
  });

  test('may be any well-formed text that is not blank', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        fc.pre(text.trim() !== '');
        const body = JSON.stringify({ text });
        expect(parseText(postJobs(body))).toBe(text.trim());
        expect(parseText(postJobs(Buffer.from(body).toString('base64'), { isBase64Encoded: true }))).toBe(text.trim());
      }),
    );
  });

  test('may stand among other fields, whatever they are called', () => {
    expect(parseText(postJobs('{"__proto__": {"x": 1}, "constructor": null, "toString": 1, "text": "a"}'))).toBe('a');
  });

  test.each([
    ['no body', null],
    ['an empty body', ''],
    ['an empty object', '{}'],
    ['an empty text', '{"text": ""}'],
    ['a blank text', '{"text": " \\n\\t\\u00a0\\u3000"}'],
    ['a text in the prototype', '{"__proto__": {"text": "a"}}'],
    ['a field of another case', '{"Text": "a"}'],
  ])('is missing in %s', (_what, body) => {
    expect(refusalOfBody(body)).toEqual(NO_TEXT);
  });

  test.each(['null', 'true', '5', '"text"', '[]', '[{"text": "a"}]'])(
    'is missing in %s, which is no object',
    (body) => {
      expect(refusalOfBody(body)).toEqual(NO_OBJECT);
    },
  );

  test.each(['null', '5', 'true', '["a"]', '{"text": "a"}'])('may not be %s', (text) => {
    expect(refusalOfBody(`{"text": ${text}}`)).toEqual(NO_STRING);
  });

  test.each([
    ['half an object', '{"text": "a"'],
    ['single quotes', "{'text': 'a'}"],
    ['a trailing comma', '{"text": "a",}'],
    ['a form', 'text=a'],
    ['white space', ' '],
    ['NaN', '{"text": NaN}'],
    ['two values', '{"text": "a"}{}'],
    ['a control character in a string', '{"text": "a\nb"}'],
    ['a million open brackets', '['.repeat(1_000_000)],
    ['a million open objects', '{"text":'.repeat(1_000_000)],
  ])('is not looked for in %s, which is no JSON', (_what, body) => {
    expect(refusalOfBody(body)).toEqual(INVALID_JSON);
  });

  test('is not looked for in a million nested lists', () => {
    expect(refusalOfBody('['.repeat(1_000_000) + ']'.repeat(1_000_000))).toEqual(NO_OBJECT);
    const nested = `{"text": ${'['.repeat(1_000_000)}${']'.repeat(1_000_000)}}`;
    expect(refusalOfBody(nested)).toEqual(NO_STRING);
  });

  test.each([
    ['no UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]).toString('base64')],
    ['half a character', Buffer.from('{"text": "é"}').subarray(0, 11).toString('base64')],
    [
      'a surrogate in UTF-8',
      Buffer.from([...Buffer.from('{"text":"'), 0xed, 0xa0, 0x80, 0x22, 0x7d]).toString('base64'),
    ],
    ['no base64', '§§§§'],
    ['JSON as it is', '{"text": "a"}'],
  ])('is not looked for in a base64 body that is %s', (_what, body) => {
    expect(refusalOfBody(body, true)).toEqual(INVALID_JSON);
  });

  test.each(['\\ud800', 'a\\udc00b', '\\udc00\\ud800'])('may not hold a lone surrogate (%s)', (text) => {
    expect(refusalOfBody(`{"text": "${text}"}`)).toEqual(NOT_WELL_FORMED);
  });

  test.each([
    ['one byte', 'x'],
    ['two bytes', 'é'],
    ['two bytes, because they are escaped', '"'],
    ['four bytes', '😀'],
    ['six bytes, because they are escaped', '\u0001'],
  ])('is limited by its size as JSON, with characters of %s', (_bytes, character) => {
    const characters = character.repeat(Math.floor(MAX_TEXT_BYTES / sizeAsJson(character)));
    const longest = characters + 'x'.repeat(MAX_TEXT_BYTES - sizeAsJson(characters));
    expect(parseText(postJobs(JSON.stringify({ text: ` ${longest} ` })))).toBe(longest);
    expect(refusalOfBody(JSON.stringify({ text: `${longest}x` }))).toEqual(TOO_LONG);
  });

  test('is too long in a body of 5 MB', () => {
    expect(refusalOfBody(JSON.stringify({ text: 'x'.repeat(5_000_000) }))).toEqual(TOO_LONG);
  });
});

describe('the idempotency key', () => {
  const keyOf = (value: string, name = 'Idempotency-Key') =>
    parseIdempotencyKey(postJobs(null, { headers: { [name]: value } }));
  const MALFORMED = {
    status: 400,
    error: "Header 'Idempotency-Key' must be one string of 1 to 255 printable ASCII characters",
  };

  test('is undefined when no header has it', () => {
    expect(parseIdempotencyKey(postJobs(null))).toBeUndefined();
    expect(parseIdempotencyKey(postJobs(null, { headers: { 'Idempotency-Key': undefined } }))).toBeUndefined();
  });

  test.each(['Idempotency-Key', 'idempotency-key', 'IDEMPOTENCY-KEY'])('is found under the name %s', (name) => {
    expect(keyOf('a-key', name)).toBe('a-key');
  });

  test('is found in the headers of several values, once', () => {
    const both = { headers: { 'Idempotency-Key': 'k' }, multiValueHeaders: { 'Idempotency-Key': ['k'] } };
    expect(parseIdempotencyKey(postJobs(null, both))).toBe('k');
    expect(parseIdempotencyKey(postJobs(null, { multiValueHeaders: { 'idempotency-key': ['k'] } }))).toBe('k');
  });

  test('is the same bare and quoted, with white space around', () => {
    const key = '8e03978e-40d5-43dd-bc93-6894a57f9324';
    expect([key, `"${key}"`, `  "${key}"\t`].map((value) => keyOf(value))).toEqual([key, key, key]);
  });

  test.each([
    ['"a b"', 'a b'],
    ['"a\\"b"', 'a"b'],
    ['"a\\\\b"', 'a\\b'],
    ['a\\b', 'a\\b'],
    ['"\\\\\\""', '\\"'],
    ['!~', '!~'],
    ['" "', ' '],
  ])('%s is %j', (value, key) => {
    expect(keyOf(value)).toBe(key);
  });

  test('quoted as the IETF draft has it, comes back as it was', () => {
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

  test('has 1 to 255 characters, not counting quotes and backslashes', () => {
    expect(keyOf('k'.repeat(255))).toHaveLength(255);
    expect(keyOf(`"${'\\"'.repeat(255)}"`)).toBe('"'.repeat(255));
    expect(refusalOf(() => keyOf('k'.repeat(256)))).toEqual(MALFORMED);
    expect(refusalOf(() => keyOf(`"${'\\"'.repeat(256)}"`))).toEqual(MALFORMED);
  });

  test.each([
    '',
    ' ',
    '""',
    '"',
    '"a',
    'a"',
    'a"b',
    '"a"b"',
    '"a\\"',
    '"\\a"',
    'a b',
    'é',
    '"é"',
    '"a\u0000"',
    '"a\u007f"',
    'a\u007f',
    '"a";p=1',
    '"a", "b"',
  ])('may not be %j', (value) => {
    expect(refusalOf(() => keyOf(value))).toEqual(MALFORMED);
  });

  test('may not come twice', () => {
    const twice = { multiValueHeaders: { 'Idempotency-Key': ['k', 'k'] } };
    expect(refusalOf(() => parseIdempotencyKey(postJobs(null, twice)))).toEqual(MALFORMED);
  });
});
