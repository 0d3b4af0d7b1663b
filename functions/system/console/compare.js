/** Before and after, one over the other at the same size, with a slider between them. */

import { h } from "./dom.js";

/**
 * `before` and `after` are URLs, `width` and `height` those of the result; the original is
 * stretched to it. `alt` says what the picture is.
 */
export function comparison({ before, after, width, height, alt }) {
  const original = h("img", { class: "before", src: before, alt: `${alt}, before`, draggable: "false" });
  const result = h("img", { class: "after", src: after, alt: `${alt}, after`, draggable: "false" });
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 1,
    value: 50,
    "aria-label": "How much of the original is shown",
  });
  const stage = h(
    "div",
    { class: "compare" },
    result,
    original,
    h("span", { class: "divider", "aria-hidden": "true" }),
    h("span", { class: "tag left", "aria-hidden": "true" }, "Before"),
    h("span", { class: "tag right", "aria-hidden": "true" }, "After"),
    slider,
  );
  stage.style.setProperty("aspect-ratio", `${width} / ${height}`);
  stage.style.setProperty("--width", `${width}px`);
  stage.style.setProperty("--shape", String(width / height));
  const show = () => {
    stage.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % original`);
  };
  const follow = (event) => {
    const { left, width: shown } = stage.getBoundingClientRect();
    slider.value = String(Math.round((100 * (event.clientX - left)) / shown));
    show();
  };
  slider.addEventListener("input", show);
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    slider.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  original.addEventListener("error", () => {
    stage.classList.add("only-after"); // a format that this browser does not show, as TIFF
    slider.disabled = true;
  });
  show();
  return stage;
}

/** The comparison to open large, in parts of the viewer; "Actual size" shows pixel for pixel. */
export function largeComparison(options) {
  const stage = comparison(options);
  const frame = h("div", { class: "compare-frame" }, stage);
  const actual = h("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "Actual size");
  actual.addEventListener("click", () => {
    const pressed = actual.getAttribute("aria-pressed") !== "true";
    actual.setAttribute("aria-pressed", String(pressed));
    frame.classList.toggle("actual", pressed);
    frame.classList.toggle("scroll", pressed);
    if (pressed) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
    frame.scrollTo(
      (frame.scrollWidth - frame.clientWidth) / 2,
      (frame.scrollHeight - frame.clientHeight) / 2,
    );
  });
  return { body: frame, actions: [actual] };
}
