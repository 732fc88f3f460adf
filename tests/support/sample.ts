/** The text of the examples in README and openapi.yaml. */
export const SAMPLE = 'AWS Lambda is a great serverless compute service';

/** What the sample stages return for it. */
export const SAMPLE_RESULT = {
  ocr: { stage: 'ocr', charCount: 48, wordCount: 8, preview: SAMPLE },
  mlInference: { stage: 'ml_inference', sentiment: 'POSITIVE', confidence: 0.65, tokenCount: 8 },
  search: {
    stage: 'search',
    topKeywords: ['lambda', 'serverless', 'compute', 'service'],
    relatedDocumentsFound: 28,
  },
};
