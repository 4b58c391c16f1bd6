/**
 * Where text comes from: a text at the pace of a language model, or a model at an OpenAI-compatible address.
 */

/** What went wrong with the model, in words. */
export class ModelFailed extends Error {}

/**
 * Text as a model writes it: pieces of a few characters, some with half a word or half a tag.
 * @param {string} text
 * @param {number} perSecond  pieces a second
 * @param {AbortSignal} signal
 */
export async function* atPace(text, perSecond, signal) {
  const began = performance.now();
  let count = 0;
  for (const [piece] of text.matchAll(/\s*\S{1,5}|\s+$/gu)) {
    if (signal.aborted) return;
    yield piece;
    count += 1;
    const wait = began + (count * 1000) / perSecond - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/**
 * @typedef {object} Endpoint
 * @property {string} url    such as http://127.0.0.1:11434/v1
 * @property {string} model
 * @property {string} key
 */

/** @typedef {{role: "system" | "user" | "assistant", content: string}} Message */

/**
 * The deltas of an answer. Throws ModelFailed.
 * @param {Endpoint} endpoint
 * @param {Message[]} messages
 * @param {AbortSignal} signal
 */
export async function* answer({ url, model, key }, messages, signal) {
  const address = `${url.replace(/\/+$/u, "").replace(/\/chat\/completions$/u, "")}/chat/completions`;
  let response;
  try {
    response = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) },
      body: JSON.stringify({ model: model || "default", stream: true, messages }),
      signal,
      referrerPolicy: "no-referrer",
      credentials: "omit",
    });
  } catch (error) {
    if (signal.aborted) return;
    throw new ModelFailed(`The model's address does not answer, or does not let this page ask it (CORS): ${address}`);
  }
  if (!response.ok || !response.body) throw new ModelFailed(`The model refused with ${response.status}: ${await reason(response)}`);
  yield* deltas(response.body, signal);
}

/** @param {Response} response */
async function reason(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return String(error.message ?? error);
  } catch {
    return text.slice(0, 200);
  }
}

/**
 * Server-sent events of chat completions, whatever way they are cut.
 * @param {ReadableStream<Uint8Array>} body
 * @param {AbortSignal} signal
 */
export async function* deltas(body, signal) {
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += value ?? "";
      const lines = rest.split(/\r?\n/u);
      rest = done ? "" : lines.pop() ?? "";
      for (const line of lines) {
        const content = contentOf(line);
        if (content) yield content;
      }
      if (done || signal.aborted) return;
    }
  } catch (error) {
    if (!signal.aborted) throw new ModelFailed("The model's answer broke off.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} line */
function contentOf(line) {
  if (!line.startsWith("data:") || line.slice(5).trim() === "[DONE]") return "";
  try {
    return String(JSON.parse(line.slice(5)).choices?.[0]?.delta?.content ?? "");
  } catch {
    return "";
  }
}

/** Texts to try, each for something else. */
export const EXAMPLES = [
  ["A greeting", "Hello there. I speak while the text is still being written, and if you interrupt me, I know how far I got."],
  [
    "A long story to interrupt",
    "The lighthouse keeper had counted ships for thirty years. On the first night of winter he counted one that was not there. " +
      "It passed below the rocks without a light, without a sound, and every clock in the tower stood still until it was gone. " +
      "In the morning he wrote it down like any other. Weather clear. Wind from the north. Ships, seven. One of them unknown. " +
      "When they asked him about it in the village he shrugged and said that somebody has to count those, too.",
  ],
  ["Ways of speaking", "[whisper] Can you hear me? I am right behind you. [loud] And now everybody can! [slow] Take your time. [normal] There we are again."],
  ["Two speakers", "<|speaker:0|>Did you call him? <|speaker:1|>Twice. <|speaker:0|>And what did he say? <|speaker:1|>He said he would call back."],
  ["Numbers and marks", "**Order 4271** ships on 3 May at 9:30. It costs $12.50, that is 8% less than before; see https://example.org for details."],
  ["Deutsch", "Guten Abend. Ich spreche, während der Text noch geschrieben wird, und wenn du mich unterbrichst, weiß ich, wie weit ich gekommen bin."],
];
