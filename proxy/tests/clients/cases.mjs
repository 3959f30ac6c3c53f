// What the scripts of the official clients have in common: proxy/tests/sdks.rs runs them with the
// addresses of the origin and of the proxy before it, the number of events of each answer, and the number
// behind which a proper end is that of a whole answer, though its last word is missing.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

/** What was installed, as NODE_PATH says where. */
export const installed = createRequire(import.meta.url);

export const [DIRECT, THROUGH] = process.argv.slice(2);
export const EVENTS = JSON.parse(process.argv[4]);
const WHOLE = JSON.parse(process.argv[5]);

/** What a client of ours is told of each way in which an upstream cuts its answer. */
const TOLD = {
  clean: /ended before it was complete/,
  close: /failed in the middle of its stream/,
  // It may overtake what was sent ahead of it, the head too.
  reset: /failed in the middle of its stream|^502 /,
  silent: /went silent/,
};

/** All items, and the exception that ended them, if one did. */
export async function outcome(items) {
  const seen = [];
  try {
    for await (const item of items) seen.push(item);
  } catch (error) {
    return [seen, error];
  }
  return [seen, null];
}

/** With these alone, where what is tried is not the client, but the way to it. */
const FEW =
  /\/(late\/0|status\/429|cut-close\/1|half-reset\/1|silent\/1|refused\/401)$|^cut-close\/5/;

/** Cases that run side by side: hundreds that start at once do not get as far as their handshakes on a busy machine. */
const AT_ONCE = 8;

/** In this time one of them ends, however busy the machine is. */
const STALLED = 120_000;

/**
 * Runs functions by name, a few side by side, and tells which of them failed. What bounds them is progress, not the clock:
 * all that are under way have failed when none of them ends for long.
 */
export async function run(cases) {
  const chosen = [...cases].filter(([name]) => process.env.CASES !== "few" || FEW.test(name));
  const [waiting, underWay] = [chosen, new Set()];
  let [passed, failed] = [0, 0];
  const finish = () => {
    console.log(`${passed} passed, ${failed} failed`);
    process.exit(failed === 0 ? 0 : 1);
  };
  const stalled = setTimeout(() => {
    for (const name of underWay) console.log(`FAILED ${name}\nno progress in ${STALLED} ms`);
    failed += underWay.size;
    finish();
  }, STALLED);
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [name, test] = next;
      underWay.add(name);
      try {
        await test();
        passed++;
      } catch (error) {
        console.log(`FAILED ${name}\n${error.stack}`);
        failed++;
      }
      underWay.delete(name);
      stalled.refresh();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  finish();
}

/**
 * The cases of an API whose answers have a last word. `read(base)` yields the items of one answer,
 * `proper` is what its SDK raises for an answer that failed.
 */
export function* ofAnApi(api, read, proper) {
  const last = EVENTS[api];
  for (const path of ["/whole/0", "/crlf/0", "/late/0", `/cut-clean/${last}`]) {
    yield [
      api + path,
      async () => {
        // What comes at once, with line ends by LF: no part of it depends on where reads fall.
        const [expected] = await outcome(read(`${DIRECT}/cut-clean/${last}`));
        assert.deepEqual(await outcome(read(THROUGH + path)), [expected, null]);
      },
    ];
  }
  const alike = [400, 401, 429, 500, 529].map((status) => `/status/${status}`);
  for (let count = 0; count < last; count++) alike.push(`/told/${count}`);
  for (const path of alike) {
    yield [
      api + path,
      async () => {
        const both = [DIRECT, THROUGH].map((base) => outcome(read(base + path)));
        const [[direct, how], [seen, error]] = await Promise.all(both);
        assert.deepEqual(seen, direct);
        assert.deepEqual([error?.constructor, error?.message], [how?.constructor, how?.message]);
      },
    ];
  }
  for (let count = 0; count < last; count++) {
    const cuts = ["clean", "close", "reset"].flatMap((how) => [`cut-${how}`, `half-${how}`]);
    for (const how of [...cuts, "silent"]) {
      yield [
        `${api}/${how}/${count}`,
        async () => {
          const [direct] = await outcome(read(`${DIRECT}/cut-clean/${count}`));
          const [seen, error] = await outcome(read(`${THROUGH}/${how}/${count}`));
          const expected = how.endsWith("reset") ? direct.slice(0, seen.length) : direct;
          assert.deepEqual(seen, expected);
          if (how.endsWith("clean") && count >= WHOLE[api]) {
            assert.equal(error, null);
            return;
          }
          assert.ok(error instanceof proper, `${error} after ${JSON.stringify(seen)}`);
          assert.match(error.message, TOLD[how.split("-").at(-1)]);
        },
      ];
    }
  }
  // Too late to be told by a status: it was answered early.
  for (const status of [400, 401, 429, 500, 529]) {
    yield [
      `${api}/refused/${status}`,
      async () => {
        const [seen, error] = await outcome(read(`${THROUGH}/refused/${status}`));
        assert.deepEqual(seen, []);
        assert.ok(error instanceof proper && error.message.includes(status), String(error));
      },
    ];
  }
  yield [
    `${api}/away`,
    async () => {
      const [, error] = await outcome(read(`${THROUGH}/away/0`));
      assert.ok(error instanceof proper && error.status === 502, String(error));
    },
  ];
}
