// Requests to the API. Every answer is parsed JSON; every error is a Problem.

let unauthorized = async () => false;

/** Set what happens after a 401: an async function that returns whether the request can be sent again. */
export function setUnauthorized(handler) {
  unauthorized = handler;
}

/** What the API answered instead of success. `status` 0: no answer came. */
export class Problem extends Error {
  constructor({ status, code, detail, field = null, errors = [], retryAfter = null, body = null }) {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.detail = detail;
    /** The field of the request that is wrong, or null. */
    this.field = field;
    /** Every wrong field: [{field, detail}]. */
    this.errors = errors;
    /** Seconds to wait before the request is sent again, or null. */
    this.retryAfter = retryAfter;
    /** The whole answer, parsed. /ready answers 503 with its reasons. */
    this.body = body;
  }
}

/** Build the path of an API resource from its segments, each percent-encoded: path("jobs", id, "run"). */
export function path(...segments) {
  return "/" + segments.map((one) => encodeURIComponent(one)).join("/");
}

/**
 * Read a resource.
 * @param {string} path such as "/jobs"
 * @param {{query?: object|URLSearchParams, signal?: AbortSignal, headers?: object}} [options] `query`: values may be
 *   lists; null, undefined and "" are left out
 * @returns {Promise<any>} the parsed answer
 */
export async function get(path, options = {}) {
  return (await getWithHeaders(path, options)).body;
}

/** As `get`; returns {body, text, headers, status}; `text`: the answer as it was sent. */
export function getWithHeaders(path, { query, signal, headers } = {}) {
  return request("GET", path + text(query), undefined, { signal, headers });
}

/**
 * Send a change.
 * @param {string} method POST, PUT, PATCH or DELETE
 * @param {any} [body] sent as JSON; a text is JSON already and sent as it is; undefined: no body
 * @param {{query?: object, signal?: AbortSignal, headers?: object}} [options] for example {"If-Match": etag}
 */
export async function send(method, path, body, options = {}) {
  return (await sendWithHeaders(method, path, body, options)).body;
}

/** As `send`; returns {body, headers, status}. */
export function sendWithHeaders(method, path, body, { query, signal, headers } = {}) {
  return request(method, path + text(query), body, { signal, headers });
}

function text(query) {
  if (!query) return "";
  const found = query instanceof URLSearchParams ? query : new URLSearchParams();
  if (found !== query) {
    for (const [name, value] of Object.entries(query)) {
      for (const one of Array.isArray(value) ? value : [value]) {
        if (one !== null && one !== undefined && one !== "") found.append(name, one);
      }
    }
  }
  const joined = found.toString();
  return joined && `?${joined}`;
}

async function request(method, target, body, { signal, headers = {} }, again = false) {
  const options = { method, signal, headers: { Accept: "application/json", ...headers }, credentials: "same-origin" };
  if (method !== "GET") options.headers["Cronpost-Request"] = "1";
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = typeof body === "string" ? body : JSON.stringify(body);
  }
  let answer, content;
  try {
    answer = await fetch(target, options);
    content = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, code: "no_answer", detail: "The server does not answer." });
  }
  const parsed = parse(content);
  if (answer.ok) return { body: parsed, text: content, headers: answer.headers, status: answer.status };
  if (answer.status === 401 && !again && (await unauthorized())) return request(method, target, body, { signal, headers }, true);
  throw new Problem({
    status: answer.status,
    code: parsed?.code ?? "http_error",
    detail: parsed?.detail ?? `The server answered ${answer.status}.`,
    field: parsed?.field ?? null,
    errors: parsed?.errors ?? [],
    retryAfter: Number(answer.headers.get("retry-after")) || null,
    body: parsed,
  });
}

function parse(content) {
  try {
    return content ? JSON.parse(content) : null;
  } catch {
    return null;
  }
}

/** Return the cursor of the next page from the `Link` header of a list; null on the last page. */
export function nextCursor(headers) {
  const found = /<([^>]*)>;\s*rel="next"/.exec(headers.get("Link") ?? "");
  return found && new URL(found[1], location.origin).searchParams.get("cursor");
}

/** Return whether an error only says that the page was left. */
export function isAbort(error) {
  return error?.name === "AbortError";
}

/**
 * Return a key under which a request can be repeated without a second effect, for the header Idempotency-Key.
 * `crypto.randomUUID` exists only on pages from https or localhost.
 */
export function idempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");
}
