//! Health of routes and upstreams.

use super::*;

/// A socket that is bound and does not listen: connections are refused, and no other process gets the port.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn unreachable_upstream_is_shown_with_cause_and_remedy_until_it_is_back() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (place, address) = refusing();
    let proxy = Proxy::start(
        address,
        &[
            "--admin-listen=127.0.0.1:0",
            "--memory-budget=1GiB",
            "--files-budget=1000",
        ],
    );
    look(&browser, proxy.admin());
    let well = "document.querySelector('#overall').innerText === 'Healthy: 1 route, 1 upstream'";
    browser.wait_for(well);
    let budgets = "document.querySelector('#budgets').innerText";
    browser.wait_for(&format!(r"/memory \d+ of 1,024 MiB/.test({budgets})"));
    browser.wait_for(&format!(
        r"/open file descriptors \d+ of 1,000/.test({budgets})"
    ));
    browser.photograph("healthy");

    // As many as it takes to be no accident.
    for _ in 0..3 {
        // In place of a 502, and no less a failure.
        proxy.get("/").retry_later();
    }
    browser.wait_for("document.querySelector('#overall').innerText === '1 failing'");
    let unwell = browser.run("return document.querySelector('#unwell').innerText");
    let unwell = unwell.as_str().unwrap().to_lowercase();
    for part in [
        "failing",
        &format!("upstream {address}"),
        "cannot connect",
        "remedy: start it",
    ] {
        assert!(unwell.contains(part), "{part}: {unwell}");
    }
    let row = "document.querySelector('#upstreams tbody').innerText";
    browser.wait_for(&format!("{row}.includes('failing')"));
    for (name, scheme, width, height) in [
        ("failing", "light", 1280, 1000),
        ("failing-dark", "dark", 1280, 1000),
        ("failing-phone", "light", 480, 1000),
    ] {
        browser.photograph_at(name, scheme, width, height);
    }

    drop(place);
    let _origin = Origin::listening(&address.to_string(), |_, to| {
        to.stream();
        to.wait_for_close();
    });
    browser.wait_for(well);
    browser.wait_for("document.querySelector('#unwell').children.length === 0");
    browser.wait_for(&format!("{row}.includes('healthy')"));
    // Each change was told once, however many seconds it lasted.
    let told = browser.run(
        "return [...document.querySelectorAll('#announce p')].map((told) => told.innerText)
             .filter((told) => told.startsWith('Health')).join()",
    );
    assert_eq!(told, "Health: 1 failing,Health: healthy");
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn unreachable_upstream_that_readiness_tolerates_is_named() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_place, address) = refusing();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let text = format!("[[route]]\npath = '/dead'\nupstream.url = 'http://{address}'");
    std::fs::write(&file, text).unwrap();
    let proxy = proxy(&quiet(), &["--config", file.to_str().unwrap()]);
    look(&browser, proxy.admin());
    let chip = |text: &str| {
        browser.wait_for(&format!(
            "document.querySelector('#readiness').innerText === '{text}'"
        ));
    };
    chip("Ready");
    for _ in 0..3 {
        proxy.get("/dead").retry_later();
    }
    // Said once: by Health.
    let cause = "document.querySelector('#unwell').innerText";
    browser.wait_for(&format!("{cause}.includes('{address}')"));
    chip("Ready");
    std::fs::write(
        &file,
        format!(
            "ready.when = 'all'\n{}",
            std::fs::read_to_string(&file).unwrap()
        ),
    )
    .unwrap();
    proxy.signal("-HUP");
    chip("Not ready: 1 upstream unreachable");
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn route_is_not_healthy_while_its_streams_wait_for_their_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    // The first stream breaks off, and those that should continue it are not answered.
    let origin = Origin::start(|received, to| {
        if received.field("last-event-id").is_some() {
            to.wait_for_close();
            return;
        }
        to.stream();
        to.chunk("id: 1\ndata: 1\n\n");
    });
    let proxy = proxy(&origin, &["--resume-mode=on"]);
    look(&browser, proxy.admin());
    let _stream = stream(&proxy, "/feed");
    let route = "document.querySelector('#routes tbody').innerText";
    browser.wait_for(&format!("{route}.includes('failing')"));
    let health = "document.querySelector('#unwell').innerText";
    browser.wait_for(&format!(
        "{health}.includes('1 of 1 streams have lost their upstream and wait for it')"
    ));
    assert_eq!(browser.problems(), Vec::<String>::new());
}
