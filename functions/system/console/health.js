/** Whether the system can work, and which part cannot. */

import { byId, h, say } from "./dom.js";

const EVERY_MS = 15_000;

/** Ask now and again until the signal. */
export function showHealth(signal) {
  const timer = setInterval(() => void ask(), EVERY_MS);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    say(byId("health-note"), null);
  });
  return ask();
}

async function ask() {
  if (document.hidden) return;
  let parts = {};
  try {
    const answer = await fetch("health/ready", { cache: "no-store" });
    ({ parts } = await answer.json());
  } catch {
    parts = { server: "unreachable" };
  }
  show(parts);
}

function show(parts) {
  const sick = Object.keys(parts).filter((name) => parts[name] !== "ok");
  byId("health").replaceChildren(
    h("span", { class: "hidden" }, sick.length === 0 ? "All parts work" : "Not ready"),
    ...Object.entries(parts).map(([name, state]) =>
      h(
        "span",
        { class: "part", "data-state": state, title: `${name}: ${state}` },
        h("i", { class: "dot", "aria-hidden": "true" }),
        h("span", { class: "name" }, name),
        h("span", { class: "hidden" }, `: ${state}`),
      ),
    ),
  );
  const note =
    sick.length === 0
      ? null
      : `Not reachable: ${sick.join(", ")}. What was accepted waits, and goes on by itself.`;
  if (byId("health-note").textContent !== (note ?? "")) say(byId("health-note"), note);
}
