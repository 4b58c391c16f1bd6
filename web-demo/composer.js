/**
 * The text field: a palette of tags, and a list of them that opens with `[`.
 */

export const TAGS = [
  "whisper", "loud", "slow", "fast", "excited", "sad", "angry", "soft", "pause", "laugh", "sigh", "emphasis", "normal",
]; // prettier-ignore

export class Composer {
  /**
   * @param {HTMLTextAreaElement} field
   * @param {HTMLElement} list     listbox
   * @param {HTMLElement} palette
   */
  constructor(field, list, palette) {
    this.field = field;
    this.list = list;
    this.selected = 0;
    /** @type {string[]} */
    this.offered = [];
    for (const tag of TAGS) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `[${tag}]`;
      button.onclick = () => this.insert(tag, this.field.selectionStart);
      palette.append(button);
    }
    field.addEventListener("input", () => this.offer());
    field.addEventListener("blur", () => this.close());
    list.addEventListener("mousedown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const option = /** @type {HTMLElement} */ (event.target).closest("li");
      if (option) this.take(option.dataset.tag ?? "");
    });
  }

  /** The `[` that is being written, with what follows it up to the caret. */
  begun() {
    const before = this.field.value.slice(0, this.field.selectionStart);
    const match = /\[([\p{L} ]{0,20})$/u.exec(before);
    return match ? { at: match.index, typed: match[1].toLowerCase() } : null;
  }

  offer() {
    const begun = this.begun();
    this.offered = begun ? TAGS.filter((tag) => tag.startsWith(begun.typed)) : [];
    if (!this.offered.length) return this.close();
    this.selected = 0;
    this.list.replaceChildren(
      ...this.offered.map((tag, i) => {
        const option = document.createElement("li");
        option.role = "option";
        option.id = `tag-${i}`;
        option.dataset.tag = tag;
        option.textContent = tag;
        return option;
      }),
    );
    this.list.hidden = false;
    this.mark();
  }

  mark() {
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === this.selected)));
    this.list.children[this.selected]?.scrollIntoView({ block: "nearest" });
    this.field.setAttribute("aria-activedescendant", `tag-${this.selected}`);
  }

  close() {
    this.list.hidden = true;
    this.field.removeAttribute("aria-activedescendant");
  }

  /**
   * A key in the field. Returns whether it was the list's.
   * @param {KeyboardEvent} event
   */
  key(event) {
    if (this.list.hidden) return false;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.selected = (this.selected + step + this.offered.length) % this.offered.length;
      this.mark();
    } else if (event.key === "Enter" || event.key === "Tab") {
      this.take(this.offered[this.selected]);
    } else if (event.key === "Escape") {
      this.close();
    } else {
      return false;
    }
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  /** @param {string} tag */
  take(tag) {
    const begun = this.begun();
    this.insert(tag, begun?.at ?? this.field.selectionStart);
  }

  /** @param {string} tag @param {number} from */
  insert(tag, from) {
    this.close();
    this.field.focus();
    const space = from && !/\s$/u.test(this.field.value.slice(0, from)) ? " " : "";
    this.field.setRangeText(`${space}[${tag}] `, from, this.field.selectionEnd, "end");
    this.close();
  }
}
