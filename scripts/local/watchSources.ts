import { watch } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Editors save in several steps. Steps within this time count as one change. */
const SETTLE_MS = 100;

/**
 * Watches what is deployed: template.yaml and everything in src/, except hidden files, such as editors'
 * temporary files. Yields the path of a changed file. Several changes while the caller is busy are yielded as one.
 */
export function watchSources(root: string): AsyncGenerator<string> {
  let changed = Promise.withResolvers<string>();

  const watchSrc = () =>
    watch(join(root, 'src'), { recursive: true }, (_event, file) => {
      if (!basename(file ?? '').startsWith('.')) changed.resolve(join('src', file ?? ''));
    });
  let srcWatcher = watchSrc();

  // Watches the folder, because a watch of the file ends when an editor replaces the file.
  watch(root, (_event, file) => {
    if (file === 'template.yaml') changed.resolve(file);
  });

  async function* changes() {
    for (;;) {
      const file = await changed.promise;
      await sleep(SETTLE_MS);
      changed = Promise.withResolvers();
      // On Linux, a recursive watch no longer sees a file that was replaced. A new watch does.
      if (process.platform === 'linux') {
        srcWatcher.close();
        srcWatcher = watchSrc();
      }
      yield file;
    }
  }
  return changes();
}
