/** A class of better-sqlite3 or node:sqlite, or a database of theirs that is open. */
export type Host =
  | (new (path: string, options?: any) => { loadExtension(path: string): unknown; close(): unknown })
  | { loadExtension(path: string): unknown };

/** The loadable library, for hosts that load it themselves. */
export const path: string;

/**
 * Loads pwal into the SQLite of `host`, for databases that are opened afterwards. With `default: false` only those that say so
 * go through it (`file:app.db?vfs=pwal`; better-sqlite3 has no such names). Calling it again changes nothing.
 */
export function install(host: Host, options?: { default?: boolean }): void;

/** What this connection is on: `active` (through pwal), `vfs`, and where it is not active, the `reason`. */
export function status(database: object): { vfs: string; active: boolean; reason?: string; [more: string]: unknown };
