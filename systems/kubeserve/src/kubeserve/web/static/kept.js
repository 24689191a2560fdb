// Keeps the files that are being sent in the browser, so that a page that is loaded again goes on by itself.

const STORE = "files";
const opened = new Promise((done, failed) => {
  const request = indexedDB.open("kubeserve", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  request.onsuccess = () => done(request.result);
  request.onerror = () => failed(request.error);
});
opened.catch(() => {}); // private windows may have none: then the file is chosen again

async function run(mode, act) {
  try {
    const store = (await opened).transaction(STORE, mode).objectStore(STORE);
    return await new Promise((done) => {
      const request = act(store);
      request.onsuccess = () => done(request.result);
      request.onerror = () => done(undefined);
    });
  } catch {
    return undefined;
  }
}

/** @param {string} version @param {File[]} files */
export const keep = (version, files) => run("readwrite", (store) => store.put(files, version));

/** @param {string} version @returns {Promise<File[]>} */
export const kept = async (version) => (await run("readonly", (store) => store.get(version))) ?? [];

/** @param {string} version */
export const forget = (version) => run("readwrite", (store) => store.delete(version));
