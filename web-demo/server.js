/** What the page asks of the server besides the conversation, and how its answers are said to people. */

import { Refused } from "./parley.js";

/** @param {string} state @param {string} code @param {string} message */
export function connectionWords(state, code, message) {
  if (state === "open") return "Connected";
  if (state === "connecting") return "Connecting …";
  if (code === "too_many_sessions") return "The server is full. This page tries again by itself.";
  if (code === "warming_up") return "The model is loading …";
  if (code === "taken_over") return "This conversation goes on in another tab.";
  if (code === "unauthorized") return "This server wants a key.";
  if (state === "lost") return `${message || "The connection was lost."} Trying again …`;
  return message || "Disconnected.";
}

/** What the server has loaded; null: it does not say. */
export async function loadedModel() {
  const response = await fetch("v1/models");
  return response.ok ? (await response.json()).data[0] : null;
}

/**
 * A secret for one session: with it the page needs no key, and the server can say why it has none to give.
 * @param {string} key  empty: the browser knows it, or there is none
 */
export async function secret(key) {
  let response;
  try {
    response = await fetch("v1/sessions", { method: "POST", headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new Refused("unreachable", "The server does not answer.");
  }
  if (response.ok) return (await response.json()).client_secret;
  const body = await response.json().catch(() => null);
  const retryMs = 1000 * Number(response.headers.get("Retry-After") ?? 3);
  throw new Refused(body?.error?.code ?? String(response.status), body?.error?.message ?? "The server refuses a session.", retryMs);
}

/** Resolves once a turn would be spoken. @param {() => void} waiting  called each second until then */
export async function untilReady(waiting) {
  for (;;) {
    const response = await fetch("health/ready").catch(() => null);
    const body = await response?.json().catch(() => null);
    if (body?.status !== "warming_up") return;
    waiting();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
