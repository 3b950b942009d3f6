/** A class of better-sqlite3, node:sqlite or bun:sqlite, or a database of theirs that is open. */
export type Host =
  | (new (path: string, options?: any) => { loadExtension(path: string): unknown; close(): unknown })
  | { loadExtension(path: string): unknown };

/** The class `Database` of sqlite3, which has no synchronous calls. */
export interface AsynchronousHost {
  new (path: string, callback?: (error: Error | null) => void): unknown;
  readonly prototype: { parallelize(callback?: () => void): void };
}

export interface Options {
  /** `false`: only databases that say so go through pwal (`file:app.db?vfs=pwal`; better-sqlite3 has no such names). */
  default?: boolean;
  /** What would stay on stock SQLite is an error: a database that is open already here, a file on another VFS when it is opened. */
  strict?: boolean;
}

/** The loadable library, for hosts that load it themselves. */
export const path: string;

/**
 * Loads pwal into the SQLite of `host`, for databases that are opened afterwards. Of sqlite3: for those that are opened after the promise
 * is kept. Calling it again changes nothing.
 */
export function install(host: AsynchronousHost, options?: Options): Promise<void>;
export function install(host: Host, options?: Options): void;

/** What this connection is on: `active` (through pwal), `vfs`, and where it is not active, the `reason`. */
export function status(database: object): { vfs: string; active: boolean; reason?: string; [more: string]: unknown };

/**
 * Takes the log of this connection's database away with connections open: for the shutdown of a server. The file is plain and
 * complete then, and stock SQLite can open it once this process has ended, however it ends. Answers 'retired', or 'no log' where there is none. Throws if another process has the database open, or a transaction is open.
 */
export function retire(database: object): string;
