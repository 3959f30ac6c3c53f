// Health of routes, upstreams and the proxy, with cause and remedy; and the use of the budgets.

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
    const affected = affectedRoutes(health, routes);
    const isFolded = ({ kind, name }) => kind === "route" && affected.has(name);
    const unwell = health.filter((verdict) => !isWell(verdict) && !isFolded(verdict)).sort(worstFirst);
    const counts = STATES.toReversed().map((state) => [state, unwell.filter((verdict) => verdict.state === state).length]);
    const bad = counts.filter(([, count]) => count > 0).map(([state, count]) => `${format.whole(count)} ${state}`).join(", ");
    const all = `${format.plural(routes.length, "route")}, ${format.plural(upstreams.length, "upstream")}`;
    showState(find("#overall"), unwell[0]?.state ?? "healthy", bad || `Healthy: ${all}`);
    this.#tell(bad || "healthy");
    const shown = unwell.slice(0, MOST).map((verdict) => ({ ...verdict, affected: affectedBy(verdict, routes) }));
    each(find("#unwell"), shown, makeVerdict, fillVerdict);
    const more = find("#unwell-more");
    more.hidden = unwell.length <= MOST;
    say(more, `And ${format.whole(unwell.length - MOST)} more: see the tables of routes and upstreams.`);
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

const isUnreachable = ({ kind, causes }) => kind === "upstream" && causes.some(({ check }) => check === "reachable");

/** Routes whose upstream is unreachable: their own verdicts would repeat that. */
function affectedRoutes(health, routes) {
  const down = new Set(health.filter(isUnreachable).map(({ name }) => name));
  return new Set(routes.filter(({ upstream }) => down.has(upstream)).map(({ path }) => path));
}

/** What an unreachable upstream means for its routes. */
function affectedBy(verdict, routes) {
  if (!isUnreachable(verdict)) return "";
  const names = routes.filter(({ upstream }) => upstream === verdict.name).map(({ path, numbers }) => {
    const { waiting, active } = numbers;
    return waiting === 0 ? path : `${path} (${format.whole(waiting)} of ${format.plural(active, "stream")} waiting)`;
  });
  return names.length === 0 ? "" : `${names.length === 1 ? "Route" : "Routes"}: ${names.join(", ")}`;
}

function makeVerdict() {
  const head = make("p", {}, make("span", { class: "chip" }), " ", make("strong"), " ", make("span", { class: "quiet" }));
  return make("li", {}, head, make("ul", { class: "causes" }), make("p", { class: "quiet" }));
}

function fillVerdict(item, { kind, name, state, since_s: since, causes, affected }) {
  const [head, list, routes] = item.children;
  say(routes, affected);
  routes.hidden = affected === "";
  const [chip, who, when] = head.children;
  showState(chip, state);
  say(who, `${kind} ${kind === "upstream" ? plain(name) : name}`);
  say(when, lasting(since));
  each(list, causes.toSorted(worstFirst), () => make("li", {}, make("p"), make("p", { class: "quiet" })), fillCause);
}

function fillCause(item, { cause, remedy }) {
  say(item.firstChild, cause);
  say(item.lastChild, `Remedy: ${remedy}`);
}

const mebibytes = (bytes) => format.whole(Math.floor(bytes / 2 ** 20));
const TEXTS = {
  memory: ({ used, budget }) => `memory ${mebibytes(used)} of ${mebibytes(budget)} MiB`,
  files: ({ used, budget }) => `open file descriptors ${format.whole(used)} of ${format.whole(budget)}`,
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
