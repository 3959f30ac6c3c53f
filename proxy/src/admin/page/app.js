// The page: what comes from the feed goes to its parts, and everybody sees when nothing comes.

import { Actions } from "./actions.js";
import { hasToken, keepToken } from "./api.js";
import { announce, find, say } from "./dom.js";
import { Details } from "./details.js";
import { Ends } from "./ends.js";
import { Feed } from "./feed.js";
import * as format from "./format.js";
import { Health } from "./health.js";
import { History } from "./history.js";
import { Lists } from "./lists.js";
import { Overview } from "./overview.js";
import { Streams } from "./streams.js";

const history = new History();
const feed = new Feed();
const overview = new Overview(history);
const health = new Health();
const actions = new Actions({ unauthorized });
const details = new Details({ end: (row) => actions.endStream(row), unauthorized, ended: (id) => ends.find(id) });
const streams = new Streams({
  end: (row) => actions.endStream(row),
  open: (row) => details.showLive(row),
  unauthorized,
});
const lists = new Lists((client) => {
  streams.ofClient(client);
  find("#streams").scrollIntoView();
  find("#streams").focus({ preventScroll: true });
});
const ends = new Ends((row) => details.showEnded(row));

/** Milliseconds by which a proxy's age and the browser's clock may disagree. */
const SLACK = 3000;

/** The last summary, and when the proxy that sent it was started by the browser's clock. */
let known = null;
let started = 0;
let wasLost = false;

feed.addEventListener("open", ({ detail: { summary } }) => {
  const startedNow = Date.now() - summary.uptime_s * 1000;
  // A proxy that is back after a while may be older than the one before it ever was.
  const isAnother = known !== null && (summary.uptime_s < known.uptime_s || startedNow > started + SLACK);
  started = startedNow;
  if (isAnother) {
    ends.forget();
    actions.cancel();
    details.close();
    renewed(known.version, summary.version);
  }
  streams.refresh();
  // What fails here fails for the feed as well, which starts anew.
  history.load().then(() => overview.draw()).catch(() => {});
  ends.load().catch(() => {});
});

feed.addEventListener("tick", ({ detail: { summary, ends: ended, missed_ends: missed } }) => {
  known = summary;
  history.add(summary.second);
  ends.add(ended, missed);
  if (!document.hidden) show(summary);
  showFeed();
});

feed.addEventListener("state", showFeed);
feed.addEventListener("unauthorized", unauthorized);
find("#retry").addEventListener("click", () => feed.retry());
find("#renewed-close").addEventListener("click", () => {
  find("#renewed").hidden = true;
});
find("#renewed-reload").addEventListener("click", () => location.reload());
document.addEventListener("visibilitychange", () => !document.hidden && known !== null && show(known));
feed.start();

/** One after the other, so that the browser may answer the operator in between. */
function show(summary) {
  const parts = [overview, health, lists, { show: () => streams.offer(summary) }];
  for (const part of parts) setTimeout(() => part.show(summary));
}

function showFeed() {
  const { live, lost, silent, retryIn } = feed.state();
  const chip = find("#feed");
  chip.dataset.state = live ? "good" : lost ? "bad" : "unknown";
  say(chip, live ? "Live" : lost ? "Disconnected" : "Connecting");
  document.body.classList.toggle("stale", lost);
  find("#lost").hidden = !lost;
  if (lost) {
    const old = silent === null ? "" : "The values below are out of date.";
    say(find("#lost-what"), `No connection to the proxy. ${old}`);
    const since = silent === null ? "" : `Last update ${format.age(silent)} ago.`;
    const next = retryIn === null ? "Connecting." : `Next attempt in ${Math.ceil(retryIn / 1000)} s.`;
    say(find("#lost-when"), `${since} ${next}`);
    // An id may mean another stream once the proxy is back.
    if (!wasLost) {
      actions.cancel();
      details.close();
    }
  } else if (wasLost) {
    announce("Connected to the proxy again.");
  }
  wasLost = lost;
  document.title = lost ? "✕ sse-guard: disconnected" : "sse-guard";
}

function renewed(before, now) {
  const isOther = before !== now;
  const text = isOther ? `The proxy now runs version ${now}; this page is from ${before}.` : "The proxy was restarted: streams have new ids, and counts start from 0.";
  say(find("#renewed-what"), `${text} (${format.moment(Date.now())})`);
  find("#renewed-reload").hidden = !isOther;
  find("#renewed").hidden = false;
}

function unauthorized() {
  streams.stop();
  const login = find("#login");
  if (login.open) return;
  say(find("#login-wrong"), hasToken() ? "The token was rejected." : "");
  login.showModal();
}

find("#login").addEventListener("cancel", (event) => event.preventDefault());
find("#login form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(event.target.token.value);
  event.target.reset();
  find("#login").close();
  feed.retry();
});
