// Calls of the API. The cookie says who calls; scripts cannot read it.

const V1 = "/api/v1";
const PATIENCE = 30_000;
const PAGE = 500;

/** What the API refuses: `status` 0 where no server answers, `faults` by field. */
export class Refusal extends Error {
  /** @param {number} status @param {{error?: string, code?: string, faults?: {field: string, message: string}[]}} told */
  constructor(status, told) {
    super(told.error ?? `The server answers ${status}.`);
    this.status = status;
    this.code = told.code ?? "";
    this.faults = told.faults ?? [];
  }
}

const AWAY = new Refusal(0, { error: "The server does not answer. It is tried again.", code: "away" });

/**
 * Calls a path below /api/v1, and gives what it answers. Without a login it goes to the page for that.
 * @param {string} method @param {string} path @param {any} [body] @param {number} [patience] milliseconds
 */
export async function call(method, path, body, patience = PATIENCE) {
  return (await answered(method, path, body, patience)).told;
}

/** Lists all that there is behind a path, page by page. @param {string} path */
export async function all(path) {
  const found = [];
  for (let after = ""; ;) {
    const page = await call("GET", `${path}?limit=${PAGE}${after}`);
    found.push(...page);
    if (page.length < PAGE) {
      return found;
    }
    after = `&after=${page.at(-1).id}`;
  }
}

export async function answered(method, path, body, patience = PATIENCE) {
  const options = { method, signal: AbortSignal.timeout(patience), headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(V1 + path, options);
  } catch {
    throw AWAY;
  }
  const told = response.status === 204 ? null : await response.json().catch(() => ({}));
  if (!response.ok) {
    refuse(response.status, told);
  }
  return { status: response.status, told };
}

/** Throws what is refused; who is not known any more goes to the login. */
export function refuse(status, told) {
  if (status === 401 && !["/login", "/register", "/architecture"].includes(location.pathname)) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  }
  throw new Refusal(status, told);
}

/** The path of what is below the API, for streams. @param {string} path */
export const url = (path) => V1 + path;

/** The id in the address of this page: its last part. */
export const shown = () => encodeURIComponent(decodeURIComponent(location.pathname.split("/").pop() ?? ""));
