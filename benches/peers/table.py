#!/usr/bin/env python3
"""Prints what run.sh found, beside what is promised: table.py FILE.jsonl...

A cell is the median of the rounds. The ratio is sse-guard's to the lower of nginx's and HAProxy's, in
brackets its range over the rounds.
"""

import json
import os
import statistics
import sys
from typing import Callable, NamedTuple

OURS = "sse-guard"
PEERS = ("nginx", "haproxy")
KIB = 1 / 1024
# Percent of the CPU time that others on the machine may have before ratios are only a hint.
NOISE = 10


class Row(NamedTuple):
    """A row of a table."""

    what: str
    # What to take from a run.
    find: Callable
    # A number not to exceed.
    limit: float | None = None
    # Whether the ratio tells something.
    ratio: bool = False
    # What the ratio is promised not to exceed.
    peer: float | None = None


def of(key, unit=1):
    """One result."""
    return lambda run: run[key] * unit if key in run else None


def total(*keys):
    """The sum of several results."""
    return lambda run: sum(run.get(key, 0) for key in keys)


def missing(key, whole):
    """How much is missing to what was asked for."""
    return lambda run: run[whole] - run[key]


def beats_short(run):
    """Heartbeats that are lacking to one each 15 s, as far as they had to come."""
    return max(0, (run["hold"] - 1) // 15 - run["comments_per_conn"])


def all_reset(run):
    """When all were reset; without end if they were not."""
    return run.get("all_reset_s", float("inf"))


IDLE = [
    Row("streams not opened or cut", total("not_opened", "dropped"), 0),
    Row("user space, KB a stream", of("pss_bytes_per_conn", KIB), 3, ratio=True),
    Row("kept after they left, KB a stream", of("pss_kept_bytes_per_conn", KIB), 0.3),
    Row("files kept after they left", of("fds_kept"), 0),
    Row("CPU to open, ms a stream", of("open_cpu_ms_per_conn"), ratio=True),
]
def waiting(limit):
    """Connections that wait, each of which may cost so many KB."""
    return [
        Row("connections not opened or cut", total("not_opened", "dropped"), 0),
        Row("user space, KB a connection", of("pss_bytes_per_conn", KIB), limit, ratio=True),
        Row("kept after they left, KB a connection", of("pss_kept_bytes_per_conn", KIB)),
        Row("CPU to open, ms a connection", of("open_cpu_ms_per_conn"), ratio=True),
    ]


def cost(peer):
    """CPU of an event."""
    return Row("CPU s per million events", of("cpu_s_per_million_events"), ratio=True, peer=peer)


COST = cost(1)
OTHERS = Row("noise: CPU time of all else, %", of("noise_percent"))
LOST = Row("streams cut, events lost or out of order", total("not_opened", "dropped", "lost", "misordered"), 0)
THROUGHPUT = [
    Row("streams failed, events lost or out of order", total("failed", "lost", "misordered"), 0),
    COST,
    Row("events a second", of("events_per_s")),
    OTHERS,
]


def steady(peer):
    """Events over TLS or HTTP/2 at a steady rate, whose CPU may be so many times the peers'."""
    return [
        LOST,
        cost(peer),
        Row("p50, us", of("p50_us"), ratio=True),
        Row("p99, us", of("p99_us"), ratio=True),
        OTHERS,
    ]


def streams(limit, kept=None, peer=None):
    """Idle streams, each of which may cost so many KB, or so many times the peers'."""
    return [
        Row("streams not opened or cut", total("not_opened", "dropped"), 0),
        Row("user space, KB a stream", of("pss_bytes_per_conn", KIB), limit, ratio=True, peer=peer),
        Row("kept after they left, KB a stream", of("pss_kept_bytes_per_conn", KIB), kept),
        Row("files kept after they left", of("fds_kept"), 0),
        Row("CPU to open, ms a stream", of("open_cpu_ms_per_conn"), ratio=True),
    ]


def handshake(peer):
    """TLS connections that are made and closed."""
    return [
        Row("failed, or not of this kind", total("failed", "not_as_wanted"), 0),
        Row("CPU ms a connection", of("cpu_s_per_million_events", 1 / 1000), ratio=True, peer=peer),
        OTHERS,
    ]


# By file: what was done, and what of it is told.
TABLES = {
    "idle": ("{conns:,} idle streams, {opening} being opened at a time, after {hold:g} s", IDLE),
    "burst": ("{conns:,} idle streams, opened all at once, after {hold:g} s", IDLE),
    "waiting-head": ("{conns:,} requests that wait for their response's head, after {hold:g} s", waiting(10)),
    "waiting-next": ("{conns:,} connections that wait for their second request, after {hold:g} s", waiting(6)),
    "waiting-first": ("{conns:,} connections that have sent nothing, after {hold:g} s", waiting(1)),
    "latency": (
        "{conns:,} streams with {rate:g} events a second each",
        [
            LOST,
            COST,
            Row("p50, us", of("p50_us"), ratio=True, peer=1),
            Row("p99, us", of("p99_us"), ratio=True, peer=1),
            Row("p99.9, us", of("p999_us"), ratio=True),
            OTHERS,
        ],
    ),
    "throughput": ("{conns} streams flat out, one event a chunk", THROUGHPUT),
    "throughput-8k": ("{conns} streams flat out, chunks of 8 KiB", THROUGHPUT),
    "tls-idle": ("{conns:,} idle streams over TLS 1.3 and HTTP/1.1, after {hold:g} s", streams(7, 0.6)),
    "tls-handshake-full": ("{conns:,} TLS 1.3 connections, each with a full handshake", handshake(0.8)),
    "tls-handshake-resumed": ("{conns:,} TLS 1.3 connections, each by the ticket of the one before", handshake(None)),
    "tls-latency": ("{conns:,} streams over TLS with {rate:g} events a second each", steady(1)),
    "tls-throughput": ("{conns} streams over TLS flat out, one event a chunk", THROUGHPUT),
    "h2-shared": ("{conns:,} idle streams over HTTP/2, 50 on a connection, after {hold:g} s", streams(None)),
    "h2-apart": ("{conns:,} idle streams over HTTP/2, one on a connection, after {hold:g} s", streams(None)),
    "h2-latency": ("{conns:,} streams over HTTP/2, 4 on a connection, with {rate:g} events a second each", steady(1.15)),
    "h2-throughput": ("{conns} streams over HTTP/2, 4 on a connection, flat out", THROUGHPUT),
    "h2-tls-shared": ("{conns:,} idle streams over TLS and HTTP/2, 50 on a connection, after {hold:g} s", streams(5)),
    "h2-tls-apart": (
        "{conns:,} idle streams over TLS and HTTP/2, one on a connection, after {hold:g} s",
        streams(None, peer=1),
    ),
    "h2-tls-latency": (
        "{conns:,} streams over TLS and HTTP/2, 4 on a connection, with {rate:g} events a second each",
        steady(1.15),
    ),
    "h2-tls-throughput": ("{conns} streams over TLS and HTTP/2, 4 on a connection, flat out", THROUGHPUT),
    "h2-upstream": ("{conns:,} idle streams from an upstream over one HTTP/2 connection, after {hold:g} s", streams(None)),
    "hold": (
        "{conns:,} streams through one process, held for {hold:g} s",
        [
            Row("streams not opened or cut", total("not_opened", "dropped"), 0),
            Row("CPU while held, % of a core", of("hold_core_percent"), 1),
            Row("heartbeats a stream", of("comments_per_conn")),
            Row("  short of one each 15 s", beats_short, 0),
            Row("user space, KB a stream", of("pss_bytes_per_conn", KIB), 3),
        ],
    ),
    "slow": (
        "{conns:,} clients that never read an endless stream, watched for {secs:g} s",
        [
            Row("user space, KB a client, held", of("pss_held_bytes_per_conn", KIB), 20, ratio=True),
            Row("  at the most, while they connect", of("pss_peak_bytes_per_conn", KIB)),
            Row("kernel, KB a client at the most", of("kernel_bytes_per_conn", KIB), 64, ratio=True),
            Row("  not sent to the client", of("unsent_bytes_per_conn", KIB)),
            Row("  not read from the origin", of("unread_bytes_per_conn", KIB)),
            Row("clients not reset", missing("reset", "conns"), 0),
            Row("seconds until all were reset", all_reset, 35),
            Row("requests left at the origin", of("origin_streams_end"), 0),
            Row("CPU s in the second half", of("cpu_s_second_half")),
        ],
    ),
    "churn": (
        "{rate:g} connects a second for {secs:g} s, ended by FIN and RST by turns, 2 s later",
        [
            Row("streams not opened", of("failed"), 0),
            Row("growth in the second half, MB", of("pss_growth_second_half", KIB * KIB), 1),
            Row("files left over", of("fds_left"), 0),
            Row("origin's streams left over", of("origin_streams_left"), 0),
            Row("CPU ms a connect", of("cpu_ms_per_conn"), ratio=True),
            Row("p99 to the first event, us", of("first_event_p99_us"), ratio=True),
        ],
    ),
}


def pretty(x):
    """Three digits, as no more are meant."""
    if x is None:
        return "-"
    if abs(x) >= 100 or x == int(x):
        return f"{x:,.0f}" if x != float("inf") else "never"
    return f"{x:.2f}" if abs(x) < 10 else f"{x:.1f}"


def compare(values):
    """Ours to the lower of the peers', if there are any."""
    # Growth by nothing or less is no measure.
    theirs = [values[p] for p in PEERS if (values.get(p) or 0) > 0]
    ours = values.get(OURS)
    return ours / min(theirs) if theirs and ours is not None else None


def read(path):
    """The runs of a file, by target, in the order of their first."""
    runs = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            run = json.loads(line)
            runs.setdefault(run["target"], []).append(run)
    return runs


def cells(row, runs):
    """A row's values, ratio, promise and verdict; `~` if the rounds do not agree on it."""
    found = {t: [None if "error" in run else row.find(run) for run in turns] for t, turns in runs.items()}
    kept = {t: [v for v in turns if v is not None] for t, turns in found.items()}
    medians = {t: statistics.median(turns) if turns else None for t, turns in kept.items()}
    shown = promise = verdict = ""
    middle = compare(medians) if row.ratio else None
    if middle is not None:
        turns = [compare(dict(zip(found, turn))) for turn in zip(*found.values())]
        turns = [r for r in turns if r is not None] or [middle]
        shown = f"x{middle:.2f}" + (f" ({min(turns):.2f}-{max(turns):.2f})" if len(turns) > 1 else "")
    if row.peer:
        promise = f"<= x{row.peer:g}"
        if middle is not None:
            verdict = "met" if middle <= row.peer else "MISSED"
            verdict += "~" if min(turns) <= row.peer < max(turns) else ""
    elif row.limit is not None:
        promise = f"<= {pretty(row.limit)}"
        if medians.get(OURS) is not None:
            verdict = "met" if medians[OURS] <= row.limit else "MISSED"
    return [row.what, *(pretty(m) for m in medians.values()), shown, promise, verdict]


def troubles(runs):
    """What makes the numbers worth less."""
    for target, turns in runs.items():
        for why in sorted({run["error"] for run in turns if "error" in run}):
            yield f"{target}: {why}"
        for why in [run[key] for run in turns for key in run if key.endswith("_why")][:1]:
            yield f"{target}: {why}"
    noise = max((run.get("noise_percent", 0) for turns in runs.values() for run in turns), default=0)
    if noise > NOISE:
        yield f"NOISY: up to {noise:.0f} % of the CPU time went to all else on the machine; ratios are a hint only"


def main():
    """Prints a table for each file."""
    missed = 0
    for path in sys.argv[1:]:
        name = os.path.basename(path).removesuffix(".jsonl")
        runs = read(path)
        well = [run for turns in runs.values() for run in turns if "error" not in run]
        if not well:
            print(f"\n{name}: nothing was measured")
            continue
        title, table = TABLES[name]
        rounds = max(len(turns) for turns in runs.values())
        print(f"\n{name}: {title.format(**well[0])}" + (f"; median of {rounds}" if rounds > 1 else ""))
        lines = [["", *runs, "ratio", "promise", ""], *(cells(row, runs) for row in table)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        for line in lines:
            middle = "".join("  " + cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1]))
            print(f"  {line[0].ljust(widths[0])}{middle}  {line[-1]}".rstrip())
            missed += line[-1].startswith("MISSED")
        for trouble in troubles(runs):
            print(f"  {trouble}")
    print(f"\npromises missed: {missed}")


if __name__ == "__main__":
    main()
