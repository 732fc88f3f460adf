/**
 * The stages that the worker runs. Put your own stages into files of this folder and list them here.
 * Nothing else in src/ needs to change; docs/make-it-yours.md has a complete example.
 */
import { mlInference, ocr, search } from './samples.ts';
import type { Stage } from './stage.ts';

/** Stages run in this order, and each gets the results of the earlier ones. Names must be unique. */
export const stages: readonly Stage[] = [ocr(), mlInference(), search()];
