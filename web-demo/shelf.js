/**
 * Where a tape is kept while its page is loaded again: the browser's database. A tape is there for its own tab alone; those of tabs that
 * are gone are thrown away by the next page that comes.
 */

const STORE = "sound";

export class Shelf {
  /**
   * @param {string} name  of this tab's tape
   * @returns {Promise<Shelf>}
   */
  static async open(name) {
    void navigator.locks.request(lockOf(name), () => new Promise(() => {})); // as long as this page lives
    const opening = indexedDB.open("parley", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    const shelf = new Shelf(await finished(opening), name);
    await shelf.tidy();
    return shelf;
  }

  /** @param {IDBDatabase} database @param {string} name */
  constructor(database, name) {
    this.database = database;
    this.name = name;
  }

  get store() {
    return this.database.transaction(STORE, "readwrite").objectStore(STORE);
  }

  /** @param {string} key @param {object} record */
  put(key, record) {
    this.store.put(record, [this.name, key]);
  }

  /** All that was put there. @returns {Promise<any[]>} */
  all() {
    return finished(this.store.getAll(keysOf(this.name)));
  }

  clear() {
    return finished(this.store.delete(keysOf(this.name)));
  }

  /** Throw away what no tab has. */
  async tidy() {
    const { held = [] } = await navigator.locks.query();
    const living = new Set(held.map(({ name }) => name));
    const keys = /** @type {[string, string][]} */ (await finished(this.store.getAllKeys()));
    const { store } = this;
    for (const key of keys) if (key[0] !== this.name && !living.has(lockOf(key[0]))) store.delete(key);
  }
}

/** @param {string} name */
function lockOf(name) {
  return `parley-tape-${name}`;
}

/** @param {string} name */
function keysOf(name) {
  return IDBKeyRange.bound([name], [name, []]);
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function finished(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
