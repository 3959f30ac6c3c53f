// How everybody is: all is well, or who is not, why, and what to do; and what is left of the budgets.

import { announce, each, find, make, mark, say } from "./dom.js";
import * as format from "./format.js";
import { plain } from "./streams.js";

/** From the least to the most urgent. */
const STATES = ["healthy", "degraded", "failing"];
/** One broken network has many victims, who should not push the rest of the page away. */
const MOST = 6;

const isWell = ({ state }) => state === "healthy";
const worstFirst = (a, b) => STATES.indexOf(b.state) - STATES.indexOf(a.state);

/** "failing", with its sign and colour. */
export function showState(element, state, text = state) {
  say(element, text);
  mark(element, "data-state", state);
}

/** For how long it has been so. */
export const lasting = (seconds) => `for ${format.age(seconds * 1000)}`;

/** The verdicts of a kind, by name. */
export function verdicts(health, kind) {
  const ofKind = health.filter((verdict) => verdict.kind === kind);
  return new Map(ofKind.map((verdict) => [verdict.name, verdict]));
}

export class Health {
  #told = null;

  show({ health, budgets, routes, upstreams }) {
    const unwell = health.filter((verdict) => !isWell(verdict)).sort(worstFirst);
    const counts = STATES.toReversed().map((state) => [state, unwell.filter((verdict) => verdict.state === state).length]);
    const bad = counts.filter(([, count]) => count > 0).map(([state, count]) => `${format.whole(count)} ${state}`).join(", ");
    const all = `${format.plural(routes.length, "route")}, ${format.plural(upstreams.length, "upstream")}`;
    showState(find("#overall"), unwell[0]?.state ?? "healthy", bad || `All is well: ${all}`);
    this.#tell(bad || "all is well");
    each(find("#unwell"), unwell.slice(0, MOST), makeVerdict, fillVerdict);
    const more = find("#unwell-more");
    more.hidden = unwell.length <= MOST;
    say(more, `And ${format.whole(unwell.length - MOST)} more: see the tables of upstreams and routes.`);
    const causes = health.find(({ kind }) => kind === "proxy")?.causes ?? [];
    const status = Object.entries(budgets).map(([name, budget]) => {
      const cause = causes.find(({ check }) => check === name);
      return { ...budget, name, state: cause?.state ?? "healthy" };
    });
    each(find("#budgets"), status, makeBudget, fillBudget);
  }

  /** Once for each change; how it was when the page was opened is there to be read. */
  #tell(text) {
    if (this.#told !== null && this.#told !== text) announce(`Health: ${text}`);
    this.#told = text;
  }
}

function makeVerdict() {
  const head = make("p", {}, make("span", { class: "chip" }), " ", make("strong"), " ", make("span", { class: "quiet" }));
  return make("li", {}, head, make("ul", { class: "causes" }));
}

function fillVerdict(item, { kind, name, state, since_s: since, causes }) {
  const [head, list] = item.children;
  const [chip, who, when] = head.children;
  showState(chip, state);
  say(who, `${kind} ${kind === "upstream" ? plain(name) : name}`);
  say(when, lasting(since));
  each(list, causes.toSorted(worstFirst), () => make("li", {}, make("p"), make("p", { class: "quiet" })), fillCause);
}

function fillCause(item, { cause, remedy }) {
  say(item.firstChild, cause);
  say(item.lastChild, `What to do: ${remedy}`);
}

const mebibytes = (bytes) => format.whole(Math.floor(bytes / 2 ** 20));
const TEXTS = {
  memory: ({ used, budget }) => `memory ${mebibytes(used)} of ${mebibytes(budget)} MiB`,
  files: ({ used, budget }) => `files ${format.whole(used)} of ${format.whole(budget)}`,
};

function makeBudget() {
  return make("li", {}, make("meter", { min: 0, optimum: 0, "aria-hidden": "true" }), make("span"));
}

function fillBudget(item, status) {
  const [meter, text] = item.children;
  meter.max = status.budget;
  // Where which colour begins is for the proxy to say: the whole of the meter has that of its state.
  meter.low = status.state === "healthy" ? status.budget : 1;
  meter.high = status.state === "failing" ? 1 : status.budget;
  meter.value = status.used;
  say(text, TEXTS[status.name](status));
}
