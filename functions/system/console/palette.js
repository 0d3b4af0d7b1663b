/** One colour for each label (or camera), the same in the chart, on boxes and beside names. */

const COLOURS = 6; // .c0 to .c5 in style.css; all that come later share .other
const given = new Map();

/** Let the most frequent have the colours; names that have one already keep it. */
export function assign(names) {
  for (const name of names) colourOf(name);
}

/** The class that carries the colour of `name`. */
export function colourOf(name) {
  if (!given.has(name)) given.set(name, given.size < COLOURS ? `c${given.size}` : "other");
  return given.get(name);
}
