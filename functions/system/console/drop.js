/** Files dropped anywhere in the window, each for the place on the page that takes its like. */

import { byId } from "./dom.js";

/**
 * `places` are `{section, drop, takes(type), choose(file)}`: a file is for the section it is over,
 * else for the first that takes its media type, else for the first. `drop` lights up meanwhile.
 */
export function takeDrops(places) {
  let depth = 0;
  const light = (chosen) => {
    for (const { drop } of places) drop.classList.toggle("over", drop === chosen?.drop);
  };
  const on = (name, listener) =>
    addEventListener(name, (event) => {
      if (event.dataTransfer?.types.includes("Files") && !byId("app").hidden) listener(event);
    });
  on("dragenter", (event) => {
    depth += 1;
    light(placeOf(event, places));
  });
  on("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) light(null);
  });
  on("dragover", (event) => event.preventDefault());
  on("drop", (event) => {
    event.preventDefault();
    depth = 0;
    light(null);
    const place = placeOf(event, places);
    place.choose(event.dataTransfer.files[0]);
    // on a narrow screen another part may be shown
    if (!place.section.checkVisibility()) location.hash = place.section.id;
    place.drop.scrollIntoView({ block: "nearest" });
  });
}

function placeOf(event, places) {
  const file = Array.from(event.dataTransfer.items).find((item) => item.kind === "file");
  return (
    places.find(({ section }) => section.contains(event.target)) ??
    places.find(({ takes }) => takes(file?.type ?? "")) ??
    places[0]
  );
}
