/**
 * What is kept of a conversation besides its sound: its words, and enough to go on after the page was loaded again.
 */

/** @typedef {{who: "you" | "parley", text: string, heard?: string, remaining?: string, ms?: number, at: number}} Entry  ms: heard of it */

/** The conversation in words. @param {Entry[]} entries */
export function transcript(entries) {
  const lines = entries.filter(({ text }) => text.trim()).map(({ who, text, heard, remaining, at }) => {
    const time = new Date(at).toLocaleTimeString();
    if (who === "you") return `[${time}] You: ${text}`;
    const cut = remaining?.trim() ? `\n           (not heard: ${remaining.trim()})` : "";
    return `[${time}] Parley: ${heard ?? text}${cut}`;
  });
  return `${lines.join("\n")}\n`;
}

/** Let the browser save a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const PLACE = "parley-conversation"; // in this tab only: it holds the secret that resumes the session

/** @param {unknown} value */
export function remember(value) {
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: a reload begins anew.
  }
}

export function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
  } catch {
    return null;
  }
}

export function forgetAll() {
  try {
    sessionStorage.removeItem(PLACE);
  } catch {
    // As above.
  }
}
