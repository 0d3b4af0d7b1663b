/** The HTTP interface as one signed-in client sees it. Credentials live in sessionStorage alone. */

import { eventsOf } from "./events.js";

const BASE = "api/v1/";
const STORED = "nereid.credentials";
const RENEW_BEFORE_MS = 60_000;
const SILENCE_MS = 45_000; // three of the server's heartbeats
const LONGEST_PAUSE_MS = 15_000;
const PRINTABLE = /^[\x20-\x7e]+$/; // what a header can carry
const FOR_GOOD = new Set([400, 401, 403, 404, 422]);

/** An answer that is not a success: its status (0: none came), stable code and sentence. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  #credentials = JSON.parse(sessionStorage.getItem(STORED));
  #renewal = null;
  #onRefused;

  /** `onRefused` is told (with an ApiError) when the credentials no longer hold. */
  constructor(onRefused) {
    this.#onRefused = onRefused;
  }

  get signedIn() {
    return this.#credentials !== null;
  }

  /** Take `{key}` or `{clientId, clientSecret}`, if the server does. Raises ApiError. */
  async signIn(credentials) {
    if (credentials.key !== undefined && !PRINTABLE.test(credentials.key)) {
      throw new ApiError(401, "invalid_api_key", "An API key has letters, digits and signs alone.");
    }
    try {
      if (credentials.clientId !== undefined) await this.#renew(credentials);
      await this.#answer("GET", "media/processingTasks?limit=1", {}, credentials);
    } catch (error) {
      // a client without this scope may still have others
      if (error.status !== 403) throw error;
    }
    this.#credentials = credentials;
    sessionStorage.setItem(STORED, JSON.stringify(credentials));
  }

  signOut() {
    this.#credentials = null;
    sessionStorage.removeItem(STORED);
  }

  /** The JSON of an answer. Raises ApiError. */
  async json(method, path, { query = {}, body, headers = {}, signal } = {}) {
    const init = { headers, signal };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { ...headers, "Content-Type": "application/json" };
    }
    const answer = await this.#checked(method, path + queryOf(query), init);
    return answer.status === 204 ? null : answer.json();
  }

  /** POST a file as it is, or a form; `onProgress` hears the fraction sent. Raises ApiError. */
  async upload(path, body, { onProgress, signal }) {
    const headers = await this.#headers(this.#credentials);
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch tells nothing of what it has sent
      request.open("POST", BASE + path);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      if (!(body instanceof FormData)) {
        request.setRequestHeader("Content-Type", "application/octet-stream");
      }
      request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
      request.onload = () => {
        const answer = parsed(request.responseText);
        if (request.status < 300) resolve(answer);
        else reject(errorOf(request.status, answer));
      };
      request.onerror = () => reject(unreachable());
      request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
      signal.addEventListener("abort", () => request.abort(), { once: true });
      request.send(body);
    });
  }

  /**
   * Hear a stream of events until `signal`, 204 or `onEvent` returns true, coming back after
   * every cut with Last-Event-ID. Raises ApiError where coming back would not help.
   */
  async follow(path, { signal, onEvent, onState = () => {} }) {
    const at = { last: null, failures: 0 };
    while (!signal.aborted) {
      try {
        if (await this.#hear(path, at, { signal, onEvent, onState })) return;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && FOR_GOOD.has(error.status)) throw error;
      }
      if (signal.aborted) return;
      onState("reconnecting");
      const pause = Math.min(LONGEST_PAUSE_MS, 500 * 2 ** at.failures);
      at.failures += 1;
      await waited(pause * (0.75 + Math.random() / 2), signal);
    }
  }

  /** One connection; true when the stream is at its end for good. */
  async #hear(path, at, { signal, onEvent, onState }) {
    const cut = new AbortController();
    const stop = () => cut.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENCE_MS);
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE_MS);
    };
    try {
      const headers = at.last === null ? {} : { "Last-Event-ID": at.last };
      const answer = await this.#checked("GET", path, { headers, signal: cut.signal });
      if (answer.status === 204) return true;
      onState("live");
      for await (const event of eventsOf(answer.body, alive)) {
        at.failures = 0;
        at.last = event.id ?? at.last;
        if (onEvent(event)) return true;
      }
      return false;
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
      cut.abort();
    }
  }

  async #checked(method, path, init) {
    const credentials = this.#credentials;
    if (credentials === null) throw new ApiError(401, "signed_out", "You are signed out.");
    try {
      return await this.#answer(method, path, init, credentials);
    } catch (error) {
      if (error.status !== 401) throw error;
      if (credentials.clientId !== undefined && error.code !== "invalid_client") {
        try {
          await this.#renew(credentials);
          return await this.#answer(method, path, init, credentials);
        } catch (second) {
          if (second.status !== 401) throw second;
        }
      }
      if (this.#credentials === credentials) this.#onRefused(error);
      throw error;
    }
  }

  async #answer(method, path, init, credentials) {
    const headers = { ...init.headers, ...(await this.#headers(credentials)) };
    return checked(await reached(BASE + path, { ...init, method, headers, cache: "no-store" }));
  }

  async #headers(credentials) {
    if (credentials.key !== undefined) return { "X-API-Key": credentials.key };
    if (Date.now() > credentials.renewAt) await this.#renew(credentials);
    return { Authorization: `Bearer ${credentials.token}` };
  }

  /** A new token; callers at the same time share one request. */
  async #renew(credentials) {
    this.#renewal ??= tokenFor(credentials).finally(() => {
      this.#renewal = null;
    });
    Object.assign(credentials, await this.#renewal);
    if (this.#credentials === credentials) {
      sessionStorage.setItem(STORED, JSON.stringify(credentials));
    }
  }
}

async function tokenFor({ clientId, clientSecret }) {
  const answer = await reached(`${BASE}auth/token`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      client_id: clientId,
      client_secret: clientSecret,
      grant_type: "client_credentials",
    }),
  });
  const token = await (await checked(answer)).json();
  const life = token.expires_in * 1000;
  return {
    token: token.access_token,
    renewAt: Date.now() + Math.max(life / 2, life - RENEW_BEFORE_MS),
  };
}

async function reached(url, init) {
  try {
    return await fetch(url, init);
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  throw errorOf(answer.status, parsed(await answer.text()));
}

function errorOf(status, body) {
  const detail = typeof body?.detail === "string" ? body.detail : `the answer was ${status}`;
  const sentence = detail.charAt(0).toUpperCase() + detail.slice(1);
  return new ApiError(status, body?.code ?? "unknown", sentence.replace(/[.]?$/, "."));
}

const unreachable = () =>
  new ApiError(0, "unreachable", "The server cannot be reached; check that it runs.");

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** "?a=1&b=2" of what has a value. */
export function queryOf(parameters) {
  const given = Object.entries(parameters).filter(([, v]) => v !== null && v !== "");
  const text = new URLSearchParams(given).toString();
  return text === "" ? "" : `?${text}`;
}

/** Resolves after `milliseconds`, when the network is back, or on abort. */
function waited(milliseconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}
