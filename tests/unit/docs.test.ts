import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from '@jest/globals';
import packageJson from '../../package.json';

const root = join(__dirname, '../..');
const read = (page: string) => readFileSync(join(root, page), 'utf8');
const pages = [
  'README.md',
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
  '.github/CONTRIBUTING.md',
  '.github/SECURITY.md',
];

/** The anchors that GitHub generates for a page's headings. */
function anchorsOf(page: string): string[] {
  const headings = [...read(page).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => heading);
  return headings.map((heading) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/ /g, '-'),
  );
}

test.each(pages)('%s links only to pages, files and sections that exist', (page) => {
  const text = read(page);

  for (const [, link = ''] of text.matchAll(/\]\(([^)]+)\)/g)) {
    if (/^https?:/.test(link)) continue;
    const [path = '', anchor] = link.split('#');
    const target = path === '' ? page : join(dirname(page), path);
    expect({ link, exists: existsSync(join(root, target)) }).toEqual({ link, exists: true });
    if (anchor !== undefined) expect(anchorsOf(target)).toContain(anchor);
  }
});

test.each(pages)('%s names only files that exist', (page) => {
  const text = read(page);

  // A code block that starts with a file name is an example: the reader creates that file.
  const created = [...text.matchAll(/^```ts\n\/\/ (\S+)$/gm)].map(([, file]) => file);
  for (const [file] of text.matchAll(/\b(?:src|scripts|tests|events|docs|recipes|\.github)\/[\w./-]*\w/g)) {
    if (created.includes(file)) continue;
    expect({ file, exists: existsSync(join(root, file)) || existsSync(join(root, dirname(page), file)) }).toEqual({
      file,
      exists: true,
    });
  }
});

test.each(pages)('%s shows only commands that exist', (page) => {
  const text = read(page);

  for (const [, name = ''] of text.matchAll(/npm run (?:--silent )?([\w:-]+)/g)) {
    expect(Object.keys(packageJson.scripts)).toContain(name);
  }
  for (const [, script = ''] of text.matchAll(/\bbash (\S+\.sh)\b/g)) {
    expect({ script, exists: existsSync(join(root, script)) }).toEqual({ script, exists: true });
  }
});
