// Where a value is on an axis, and which values get a line.

/** 1, 2 or 5 times a power of ten, not below `value`. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999);
}

/** From 0 to `max` or a little above. */
export function linear(max, least) {
  const step = Math.max(round(Math.max(max, 1e-9) / 3), least);
  const top = Math.max(step, Math.ceil(max / step - 1e-9) * step);
  const ticks = [];
  for (let value = 0; value <= top + step / 2; value += step) ticks.push(value);
  return { ticks, at: (value) => value / top };
}

/** Powers of ten about `min` and `max`: what is a hundred times less is still to be seen. */
export function logarithmic(min, max) {
  const low = Math.floor(Math.log10(Math.max(min, 0.1)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(max, 0.1)) - 1e-9));
  const step = high - low > 4 ? 2 : 1;
  const ticks = [];
  for (let power = low; power <= high; power += step) ticks.push(10 ** power);
  const at = (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low);
  return { ticks, at };
}
