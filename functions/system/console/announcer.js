/** Tells of new alerts those who do not look: politely, and together where many come. */

import { spoken } from "./card.js";
import { byId } from "./dom.js";

const TOGETHER_MS = 1_000;

export class Announcer {
  #unsaid = [];
  #timer = null;
  #unseen = 0;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#title());
  }

  /** A new alert: said to screen readers, and counted in the title while the tab is hidden. */
  say(alert) {
    this.#unsaid.push(alert);
    if (document.hidden) this.#unseen += 1;
    this.#title();
    this.#timer ??= setTimeout(() => {
      const [first, ...rest] = this.#unsaid;
      this.clear();
      byId("announce").textContent =
        rest.length === 0 ? `New alert: ${spoken(first)}` : `${rest.length + 1} new alerts`;
    }, TOGETHER_MS);
  }

  /** Say nothing of what has not been said. */
  clear() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#unsaid = [];
    byId("announce").textContent = "";
  }

  #title() {
    if (!document.hidden) this.#unseen = 0;
    document.title = this.#unseen > 0 ? `(${this.#unseen}) Nereid` : "Nereid";
  }
}
