//! Is the dashboard smooth with 5,000 live streams? And how does it look with some life in it?
//!
//!     cargo bench -p sse-guard-proxy --bench dashboard                 # needs chromium and chromedriver
//!     STREAMS=1000 SECONDS=60 cargo bench -p sse-guard-proxy --bench dashboard
//!
//! It holds the streams, of which each says something every few seconds and some end and come
//! again, and lets a browser look at them while it sorts, filters and scrolls. What it prints is
//! what the browser itself says of tasks that kept the page from answering for 50 ms and longer,
//! and what a frame took at the worst. Pictures are left in `dashboard/` of cargo's directory.
//!
//! The page promises no task of 100 ms. Seen on two cores that also run the proxy, the upstream and
//! all clients: none of 50 ms; with other work for as much again beside it, 98 ms at the worst of
//! five runs.

#![allow(
    clippy::unwrap_used,
    reason = "it stops at what it did not expect, and says where"
)]

#[path = "../../tests/browser/browser.rs"]
mod browser;
mod crowd;
#[path = "../../tests/support/mod.rs"]
mod support;

use browser::Browser;
use crowd::Crowd;
use std::io::Write;
use std::time::{Duration, Instant};
use support::Proxy;

/// Notes each long task and each frame that was late.
const WATCH: &str = "
    window.longTasks = [];
    window.worstFrame = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) longTasks.push(Math.round(entry.duration));
    }).observe({ type: 'longtask' });
    let last = performance.now();
    const frame = (now) => {
        worstFrame = Math.max(worstFrame, now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
";

/// Goes down the table and up again while it is sorted anew and searched through.
const USE: &str = "
    const scroller = document.querySelector('#stream-scroller');
    const heads = [...document.querySelectorAll('#stream-table thead button')];
    const search = document.querySelector('#stream-filters').q;
    scroller.scrollIntoView();
    let step = 0;
    setInterval(() => {
        step += 1;
        scroller.scrollTop += step % 200 < 100 ? 900 : -900;
        if (step % 60 === 0) heads[(step / 60) % heads.length].click();
        if (step % 150 === 0) {
            search.value = search.value ? '' : '7';
            search.dispatchEvent(new Event('input', { bubbles: true }));
        }
    }, 33);
";

const ROUTES: &str = "[[route]]\npath = '/prices'\n[[route]]\npath = '/v1/answers'\n";

fn number(name: &str, default: usize) -> usize {
    let value = std::env::var(name);
    value.map_or(default, |value| value.parse().unwrap())
}

fn main() {
    // Of the tests it is none.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (streams, seconds) = (number("STREAMS", 5000), number("SECONDS", 20));
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let Some(browser) = Browser::start() else {
        return;
    };
    let crowd = Crowd::start(streams);
    let mut config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    config.write_all(ROUTES.as_bytes()).unwrap();
    let proxy = Proxy::start(
        crowd.origin,
        &[
            "--config",
            config.path().to_str().unwrap(),
            "--admin-listen=127.0.0.1:0",
            "--limit-per-ip=off",
            "--limit-rate=off",
            // Those who come last are turned away.
            &format!("--limit-total={streams}"),
            "--trusted-proxies=127.0.0.1",
        ],
    );
    crowd.connect(proxy.addr);
    browser.open(&format!("http://{}/", proxy.admin()));
    browser.wait_for(&format!(
        "document.querySelector('#stream-table').ariaRowCount > {}",
        streams * 9 / 10
    ));
    let warm = Duration::from_secs(number("WARM", 5) as u64);
    std::thread::sleep(warm);
    browser.resize(1280, 1100);
    browser.photograph("lively");
    browser.colours("dark");
    browser.resize(1280, 2400);
    browser.photograph("lively-dark");
    browser.colours("light");
    browser.resize(400, 2400);
    browser.photograph("lively-phone");
    browser.resize(1280, 1100);

    browser.run(WATCH);
    browser.run(USE);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds as u64) {
        std::thread::sleep(Duration::from_secs(1));
    }
    let tasks = browser.run("return longTasks.sort((a, b) => b - a)");
    let frame = browser.run("return Math.round(worstFrame)");
    let live = browser.run("return document.querySelector('#tiles dd').innerText");
    let longest = tasks.get(0).and_then(serde_json::Value::as_u64);
    println!("{live} streams, {seconds} s of scrolling, sorting and searching:");
    println!("long tasks (50 ms and more): {tasks}");
    println!(
        "longest: {} ms",
        longest.map_or("< 50".into(), |ms| ms.to_string())
    );
    println!("longest from frame to frame: {frame} ms");
    let problems = browser.problems();
    assert!(problems.is_empty(), "{problems:?}");
}
