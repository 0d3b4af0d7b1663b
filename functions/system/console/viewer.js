/** The one dialog: a large picture, or two compared. Escape closes it, arrow keys turn pages. */

import { byId } from "./dom.js";

const dialog = byId("viewer");
let turn = () => {};
let closed = () => {};

/** Show `body` and `foot` below `title`; `onTurn(±1)` hears the arrow keys. */
export function openViewer({ title, actions = [], body, foot = [], onTurn, onClose, wide = false }) {
  byId("viewer-title").replaceChildren(...[title].flat());
  byId("viewer-actions").replaceChildren(...actions);
  byId("viewer-body").replaceChildren(body);
  byId("viewer-foot").replaceChildren(...foot);
  dialog.classList.toggle("wide", wide);
  turn = onTurn ?? (() => {});
  closed = onClose ?? (() => {});
  if (!dialog.open) dialog.showModal();
}

export function closeViewer() {
  if (dialog.open) dialog.close();
}

byId("viewer-close").addEventListener("click", closeViewer);
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) closeViewer(); // the backdrop
});
dialog.addEventListener("close", () => {
  for (const part of ["viewer-title", "viewer-actions", "viewer-body", "viewer-foot"]) {
    byId(part).replaceChildren();
  }
  turn = () => {};
  closed();
});
dialog.addEventListener("keydown", (event) => {
  if (event.target.matches("input, .scroll")) return; // they have arrow keys of their own
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
