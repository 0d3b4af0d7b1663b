/** How busy the converters are, asked for while somebody can see it. */

import { byId, h, seconds } from "./dom.js";

const EVERY_MS = 2_000;

/** Show them now and again until the signal; nothing where the caller lacks the scope. */
export function showSoundFigures(api, signal) {
  const shown = byId("sound-figures");
  const stopped = new AbortController();
  const until = AbortSignal.any([signal, stopped.signal]);
  let onScreen = false;
  let asking = false;
  let timer = null;

  const turn = async () => {
    clearTimeout(timer);
    if (asking || until.aborted || document.hidden || !onScreen) return;
    asking = true;
    try {
      const status = await api.json("GET", "concurrent-status", { signal: until });
      if (!until.aborted) show(shown, status);
    } catch (error) {
      if (error.status === 403) stopped.abort();
      shown.hidden = true; // the health tells of what cannot be reached
    }
    asking = false;
    timer = setTimeout(() => void turn(), EVERY_MS);
  };

  const observer = new IntersectionObserver((entries) => {
    onScreen = entries.at(-1).isIntersecting;
    void turn();
  });
  observer.observe(byId("recordings"));
  document.addEventListener("visibilitychange", () => void turn(), { signal: until });
  until.addEventListener("abort", () => {
    clearTimeout(timer);
    observer.disconnect();
    shown.replaceChildren();
    shown.hidden = true;
  });
}

function show(list, status) {
  const average = status.total_conversions > 0 ? seconds(status.average_processing_time) : "–";
  const figures = {
    Converting: `${status.active_conversions} of ${status.max_concurrent}`,
    Waiting: status.queue_length.toLocaleString(),
    "Average time": average,
  };
  list.replaceChildren(
    ...Object.entries(figures).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
  list.hidden = false;
}
