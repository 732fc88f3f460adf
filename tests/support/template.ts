import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isCollection, isScalar, parse } from 'yaml';

type Node = Readonly<Record<string, unknown>>;

const FUNCTIONS = ['Ref', 'GetAtt', 'Sub', 'If', 'Join', 'Select', 'Split', 'Equals', 'Not', 'And', 'Or', 'FindInMap'];
const BARE = ['Ref', 'Condition'];

/** CloudFormation's short forms, read as its long ones: `!Ref X` as `{Ref: X}`, `!Sub X` as `{Fn::Sub: X}`. */
const customTags = [...FUNCTIONS, 'Condition', 'ImportValue', 'Base64', 'Cidr', 'GetAZs'].flatMap((name) => {
  const key = BARE.includes(name) ? name : `Fn::${name}`;
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

/** template.yaml, with CloudFormation's functions in their long form. */
export function readTemplate(): Node {
  return nodeOf(parse(readFileSync(join(__dirname, '../../template.yaml'), 'utf8'), { customTags }), 'template.yaml');
}

/** What stands in a template under these keys; throws an Error that names the first one that is not there. */
export function at(template: unknown, ...path: readonly string[]): unknown {
  return path.reduce((node, key) => {
    const value = nodeOf(node, key)[key];
    if (value === undefined) throw new Error(`template.yaml has no ${path.join('.')} (at ${key})`);
    return value;
  }, template);
}

/** The same where it is an object, and an empty one where there is nothing. */
export function nodeAt(template: unknown, ...path: readonly string[]): Node {
  return path.reduce<Node>((node, key) => nodeOf(node[key] ?? {}, key), nodeOf(template, 'template.yaml'));
}

function nodeOf(value: unknown, name: string): Node {
  if (typeof value !== 'object' || value === null) throw new Error(`${name} is not an object in template.yaml`);
  return Object.fromEntries(Object.entries(value));
}
