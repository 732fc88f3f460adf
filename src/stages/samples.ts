import { setTimeout as sleep } from 'node:timers/promises';
import type { Stage } from './stage.ts';

/** Waits for this many milliseconds instead of doing real work; rejects when `signal` aborts. */
type Pause = (milliseconds: number, signal: AbortSignal) => Promise<unknown>;

const POSITIVE = new Set(['great', 'good', 'excellent', 'amazing', 'love', 'best', 'happy']);
const NEGATIVE = new Set(['bad', 'terrible', 'awful', 'hate', 'worst', 'poor', 'sad']);

const realPause: Pause = (milliseconds, signal) => sleep(milliseconds, undefined, { signal });

const PREVIEW_CODE_POINTS = 80;
const MAX_KEYWORDS = 5;

/** The words of a text, split at whitespace. */
const wordsOf = (text: string): string[] => text.split(/\s+/u).filter((word) => word !== '');

/** Simulates OCR, in about 2 s. Characters are Unicode code points. */
export const ocr = (pause = realPause): Stage => ({
  name: 'ocr',
  async run(text, { signal }) {
    await pause(2000, signal);
    const characters = Array.from(text);
    const isCut = characters.length > PREVIEW_CODE_POINTS;
    const preview = characters.slice(0, PREVIEW_CODE_POINTS).join('') + (isCut ? '...' : '');
    return { stage: 'ocr', charCount: characters.length, wordCount: wordsOf(text).length, preview };
  },
});

/** Simulates ML inference, in about 2 s: derives the sentiment of the text from its words. */
export const mlInference = (pause = realPause): Stage => ({
  name: 'mlInference',
  async run(text, { signal }) {
    await pause(2000, signal);
    const words = wordsOf(text.toLowerCase());
    const positive = words.filter((word) => POSITIVE.has(word)).length;
    const negative = words.filter((word) => NEGATIVE.has(word)).length;
    const sentiment = positive > negative ? 'POSITIVE' : negative > positive ? 'NEGATIVE' : 'NEUTRAL';
    // 0.6 + min(0.05 x hits, 0.35), in hundredths to avoid binary fractions.
    const hundredths = sentiment === 'NEUTRAL' ? 50 : 60 + Math.min(5 * Math.max(positive, negative), 35);
    return { stage: 'ml_inference', sentiment, confidence: hundredths / 100, tokenCount: words.length };
  },
});

/** Simulates a search, in about 1 s, for the most frequent words of the text. */
export const search = (pause = realPause): Stage => ({
  name: 'search',
  async run(text, { signal }) {
    await pause(1000, signal);
    const frequency = new Map<string, number>();
    for (const word of wordsOf(text.toLowerCase())) {
      if (Array.from(word).length <= 3 || POSITIVE.has(word) || NEGATIVE.has(word)) continue;
      frequency.set(word, (frequency.get(word) ?? 0) + 1);
    }
    // Ties keep the order of first appearance: a Map preserves it, and sort is stable.
    const topKeywords = [...frequency]
      .sort(([, a], [, b]) => b - a)
      .slice(0, MAX_KEYWORDS)
      .map(([word]) => word);
    return { stage: 'search', topKeywords, relatedDocumentsFound: 7 * topKeywords.length };
  },
});
