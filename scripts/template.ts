import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isCollection, isScalar, parse } from 'yaml';

type Node = Readonly<Record<string, unknown>>;

const FUNCTIONS = ['Ref', 'GetAtt', 'Sub', 'If', 'Join', 'Select', 'Split', 'Equals', 'Not', 'And', 'Or', 'FindInMap'];
const WITHOUT_FN_PREFIX = ['Ref', 'Condition'];

/** Expands CloudFormation's short forms: `!Ref X` becomes `{Ref: X}`, `!Sub X` becomes `{Fn::Sub: X}`. */
const customTags = [...FUNCTIONS, 'Condition', 'ImportValue', 'Base64', 'Cidr', 'GetAZs'].flatMap((name) => {
  const key = WITHOUT_FN_PREFIX.includes(name) ? name : `Fn::${name}`;
  const value = (content: unknown) => ({ [key]: content });
  return [
    { tag: `!${name}`, resolve: (text: string) => value(name === 'GetAtt' ? text.split('.') : text) },
    { tag: `!${name}`, collection: 'seq' as const, resolve: (seq: unknown) => value(plain(seq)) },
    { tag: `!${name}`, collection: 'map' as const, resolve: (map: unknown) => value(plain(map)) },
  ];
});

function plain(node: unknown): unknown {
  return isCollection(node) || isScalar(node) ? node.toJSON() : node;
}

/** Parses template.yaml and expands the short forms of CloudFormation's functions. */
export function readTemplate(): Node {
  const file = join(import.meta.dirname, '..', 'template.yaml');
  return nodeOf(parse(readFileSync(file, 'utf8'), { customTags }), 'template.yaml');
}

/** Returns the value at this path of the template. Throws an Error that names the first missing key. */
export function at(template: unknown, ...path: readonly string[]): unknown {
  return path.reduce((node, key) => {
    const value = nodeOf(node, key)[key];
    if (value === undefined) throw new Error(`template.yaml has no ${path.join('.')} (at ${key})`);
    return value;
  }, template);
}

/** Returns the object at this path of the template, or an empty object if there is none. */
export function nodeAt(template: unknown, ...path: readonly string[]): Node {
  return path.reduce<Node>((node, key) => nodeOf(node[key] ?? {}, key), nodeOf(template, 'template.yaml'));
}

function nodeOf(value: unknown, name: string): Node {
  if (typeof value !== 'object' || value === null) throw new Error(`${name} is not an object in template.yaml`);
  return Object.fromEntries(Object.entries(value));
}
