// Elements and their texts. What clients choose, such as ids and users, gets in as text only.

export const find = (selector, within = document) => within.querySelector(selector);

/** An element with attributes and children: texts or elements. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Leaves an element alone that already says so: each write costs a layout. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Has a child for each of `things`: makes and removes no more of them than it takes. */
export function each(element, things, create, fill) {
  while (element.children.length > things.length) element.lastChild.remove();
  while (element.children.length < things.length) element.append(create());
  things.forEach((thing, n) => fill(element.children[n], thing));
}

/** Tells a screen reader, and nobody else. What it has not read yet is not replaced. */
export function announce(text) {
  const told = find("#announce");
  told.append(make("p", {}, text));
  if (told.children.length > 5) told.firstChild.remove();
}

/** The choices of a select behind its first one, which stands for all. */
export function offer(select, values) {
  const now = [...select.options].slice(1).map((option) => option.value);
  if (now.length === values.length && now.every((value, n) => value === values[n])) return;
  const chosen = select.value;
  const all = [...values];
  // A choice that is gone still holds until the operator takes it back.
  if (chosen && !all.includes(chosen)) all.push(chosen);
  select.replaceChildren(select.options[0], ...all.map((value) => make("option", { value }, value)));
  select.value = chosen;
}

/** Calls `run` once nothing has asked for it for so long. */
export function settled(run, milliseconds) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
}
