/** Finds the lines of the sources for stack frames of a deployed function, whose code is one bundle with long lines. */
import { readFileSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { basename, join, relative, resolve, sep } from 'node:path';
import { crc32 } from 'node:zlib';
import { GetFunctionCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { bundleWith } from '../bundle.ts';
import { nodeAt, readTemplate } from '../template.ts';

const root = resolve(import.meta.dirname, '..', '..');
const directory = join(root, '.tools', 'source-maps');

/** A frame such as `at run (/var/task/worker.js:27:54902)`: the part before the path, then file name, line and column. */
const FRAME = /(\(|at (?:async )?)(?:[^()]*[/\\])?(\w+\.js):(\d+):(\d+)/;

/** Returns a frame with the line of src/ or of a package, or unchanged if that is not known. */
export type FrameResolver = (frame: string) => string;

/**
 * Builds the functions again, with source maps, and uses the maps of those that are identical to the deployed ones.
 *
 * @param functionNames the names of the deployed functions, by logical id
 */
export async function frameResolver(functionNames: ReadonlyMap<string, string>): Promise<FrameResolver> {
  const maps = new Map<string, SourceMap>();
  for (const [logicalId, functionName] of functionNames) {
    try {
      const build = nodeAt(readTemplate(), 'Resources', logicalId, 'Metadata', 'BuildProperties');
      // An external map leaves the bundle as it is.
      const file = await bundleWith(build, directory, join(root, 'src'), '--sourcemap=external');
      const { Code } = await new LambdaClient().send(new GetFunctionCommand({ FunctionName: functionName }));
      const zip = Buffer.from(await (await fetch(Code?.Location ?? '')).arrayBuffer());
      // A zip archive lists the checksums of its files.
      const checksum = Buffer.alloc(4);
      checksum.writeUInt32LE(crc32(readFileSync(file)));
      if (!zip.includes(checksum)) throw new Error('it was built from other sources or packages than those here');
      maps.set(basename(file), new SourceMap(JSON.parse(readFileSync(`${file}.map`, 'utf8'))));
    } catch (error) {
      const [reason = ''] = String(error instanceof Error ? error.message : error).split('\n');
      console.error(`Note: the stacks of ${logicalId} have lines of its bundle: ${reason}`);
    }
  }
  return (frame) =>
    frame.replace(FRAME, (unchanged: string, start: string, file: string, line: string, column: string) => {
      const origin = maps.get(file)?.findOrigin(Number(line), Number(column));
      if (origin === undefined || !('fileName' in origin)) return unchanged;
      const source = relative(root, resolve(directory, origin.fileName)).split(sep).join('/');
      return `${start}${source}:${origin.lineNumber}:${origin.columnNumber}`;
    });
}
