// Requests to the server that sent this page; the cookie that it set knows the token.
import { byId } from "./dom.js";

async function answer(response) {
  if (response.status === 204) return null;
  const body = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) {
    const parts = [body.error, body.seen && `seen: ${body.seen}`, body.expected && `expected: ${body.expected}`, body.hint && `try: ${body.hint}`];
    throw new Error(parts.filter(Boolean).join("; "));
  }
  return body;
}

/** Return the JSON value at an address below api/. */
export async function get(path, parameters = []) {
  const query = new URLSearchParams(parameters).toString();
  return answer(await fetch(`/api/${path}${query ? `?${query}` : ""}`, { headers: { Accept: "application/json" } }));
}

/** Send a JSON object and return the JSON value that comes back. */
export async function post(path, body = {}) {
  return answer(await fetch(`/api/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
}

let hide = 0;

/** Show what went wrong. */
export function complain(error) {
  const place = byId("error");
  place.textContent = error.message || String(error);
  place.hidden = false;
  clearTimeout(hide);
  hide = setTimeout(() => (place.hidden = true), 8000);
}

export const thumbnailOf = (set, row) => `/api/thumbnail/${row}?set=${set}`;
export const imageOf = (set, row) => `/api/image/${row}?set=${set}`;
