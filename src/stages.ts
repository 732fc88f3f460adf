import type { StageResult } from './job.ts';

/** What a stage is given besides the job's text; it does not see what other stages answered. */
export interface StageTools {
  /** For what the stage does elsewhere: as an idempotency key it makes a repeated attempt harmless. */
  readonly jobId: string;
  /** Waits for so many milliseconds; rejects at once when `signal` aborts. Simulates the sample's work; yours need not use it. */
  readonly pause: (milliseconds: number, signal: AbortSignal) => Promise<void>;
  /**
   * Aborts when the worker's time is nearly over. Pass it on to whatever the stage waits for: a
   * stage that goes on regardless is recorded as failed all the same, and whatever it does then
   * happens behind the job's back.
   */
  readonly signal: AbortSignal;
}

/**
 * One step of a job. What it throws ends the job as ERROR, with the error's message for the client
 * to read and without another try. A stage may run again after a crash, so its effects elsewhere
 * should be idempotent.
 */
export interface Stage {
  /** The key of its answer in the job's `result`. */
  readonly name: string;
  readonly run: (text: string, tools: StageTools) => Promise<StageResult>;
}

const POSITIVE = new Set(['great', 'good', 'excellent', 'amazing', 'love', 'best', 'happy']);
const NEGATIVE = new Set(['bad', 'terrible', 'awful', 'hate', 'worst', 'poor', 'sad']);

const PREVIEW_CODE_POINTS = 80;
const MAX_KEYWORDS = 5;

/** The words of a text, split on white space. */
function wordsOf(text: string): string[] {
  return text.split(/\s+/u).filter((word) => word !== '');
}

/** Simulates OCR (about 2 s). Characters are Unicode code points. */
export const ocr: Stage = {
  name: 'ocr',
  async run(text, { pause, signal }) {
    await pause(2000, signal);
    const characters = Array.from(text);
    const preview = characters.slice(0, PREVIEW_CODE_POINTS).join('');
    return {
      stage: 'ocr',
      charCount: characters.length,
      wordCount: wordsOf(text).length,
      preview: characters.length > PREVIEW_CODE_POINTS ? `${preview}...` : preview,
    };
  },
};

/** Simulates ML inference (about 2 s): the sentiment of the text by its words. */
export const mlInference: Stage = {
  name: 'mlInference',
  async run(text, { pause, signal }) {
    await pause(2000, signal);
    const words = wordsOf(text.toLowerCase());
    const positive = words.filter((word) => POSITIVE.has(word)).length;
    const negative = words.filter((word) => NEGATIVE.has(word)).length;
    const sentiment = positive > negative ? 'POSITIVE' : negative > positive ? 'NEGATIVE' : 'NEUTRAL';
    // In hundredths: 0.6 + min(0.05 x hits, 0.35) without binary fractions.
    const hundredths = sentiment === 'NEUTRAL' ? 50 : 60 + Math.min(5 * Math.max(positive, negative), 35);
    return { stage: 'ml_inference', sentiment, confidence: hundredths / 100, tokenCount: words.length };
  },
};

/** Simulates a search (about 1 s) for the most frequent words of the text. */
export const search: Stage = {
  name: 'search',
  async run(text, { pause, signal }) {
    await pause(1000, signal);
    const frequency = new Map<string, number>();
    for (const word of wordsOf(text.toLowerCase())) {
      if (Array.from(word).length <= 3 || POSITIVE.has(word) || NEGATIVE.has(word)) continue;
      frequency.set(word, (frequency.get(word) ?? 0) + 1);
    }
    // A Map keeps the order of first appearance, and sort is stable: that settles the ties.
    const topKeywords = [...frequency]
      .sort(([, a], [, b]) => b - a)
      .slice(0, MAX_KEYWORDS)
      .map(([word]) => word);
    return { stage: 'search', topKeywords, relatedDocumentsFound: 7 * topKeywords.length };
  },
};

/** What the worker runs, one after the other. Put your own work here; nothing else needs to change. */
export const stages: readonly Stage[] = [ocr, mlInference, search];
