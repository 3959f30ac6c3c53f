//! Permissions of origins, and how they are withdrawn.

use super::*;

#[tokio::test(start_paused = true)]
async fn own_response_has_the_permission_of_the_service_for_an_hour() {
    let cors = CorsLayer::new();
    let unknown = own(&cors, get(APP)).await;
    assert_eq!(allowed(&unknown), (None, false));
    assert_eq!(unknown.headers()["vary"], "origin");

    through(&cors, get(APP), allowing(APP)).await;
    let known = own(&cors, get(APP)).await;
    assert_eq!(known.status(), 503);
    assert_eq!(allowed(&known), (Some(APP), false));
    assert_eq!(known.headers()["vary"], "origin");
    assert_eq!(
        known.headers()["access-control-expose-headers"],
        "retry-after"
    );

    tokio::time::advance(Duration::from_secs(3599)).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), false));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
}

#[tokio::test]
async fn permission_applies_to_one_origin() {
    let cors = CorsLayer::new();
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&cors, get(APP), with_credentials).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), true));
    for origin in [
        OTHER,
        "https://APP.test",
        "https://app.test:8443",
        "http://app.test",
        "https://app.test.evil.test",
        "null",
        "",
        "*",
    ] {
        assert_eq!(
            allowed(&own(&cors, get(origin)).await),
            (None, false),
            "{origin}"
        );
    }
    through(&cors, get(OTHER), allowing(OTHER)).await;
    assert_eq!(allowed(&own(&cors, get(OTHER)).await), (Some(OTHER), false));
    let none = request("GET", &[("accept", "text/event-stream")]);
    let none = own(&cors, none).await;
    assert_eq!(allowed(&none), (None, false));
    assert_eq!(none.headers()["vary"], "origin");
    let two = request(
        "GET",
        &[
            ("origin", APP),
            ("origin", APP),
            ("accept", "text/event-stream"),
        ],
    );
    assert_eq!(allowed(&own(&cors, two).await), (None, false));
}

#[tokio::test]
async fn wildcard_permission_is_without_credentials() {
    let cors = CorsLayer::new();
    let any = allowing("*").header("access-control-allow-credentials", "true");
    through(&cors, get(APP), any).await;
    for origin in [APP, OTHER] {
        assert_eq!(
            allowed(&own(&cors, get(origin)).await),
            (Some(origin), false)
        );
    }
}

#[tokio::test]
async fn invalid_cors_response_gives_no_permission() {
    for upstream in [
        ScriptedUpstream::new(),
        allowing(OTHER),
        allowing("https://app.test, https://app.test"),
        allowing("https://APP.test"),
        allowing("null"),
    ] {
        let cors = CorsLayer::new();
        through(&cors, get(APP), upstream).await;
        assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
    }
}

#[tokio::test]
async fn responses_of_the_service_are_not_changed() {
    for cors in [
        CorsLayer::any(),
        CorsLayer::origins([APP]),
        CorsLayer::new(),
    ] {
        through(&cors, get(OTHER), allowing(OTHER)).await;
        let response = through(&cors, get(APP), ScriptedUpstream::new().status(404)).await;
        assert_eq!(allowed(&response), (None, false));
        assert!(!response.headers().contains_key("vary"));
    }
}

#[tokio::test]
async fn origin_list_replaces_the_permissions_of_the_service() {
    let listed = CorsLayer::origins([APP]);
    assert_eq!(allowed(&own(&listed, get(APP)).await), (Some(APP), false));
    // The list says who, the service who with credentials.
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&listed, get(APP), with_credentials).await;
    assert_eq!(allowed(&own(&listed, get(APP)).await), (Some(APP), true));
    through(&listed, get(OTHER), allowing(OTHER)).await;
    assert_eq!(allowed(&own(&listed, get(OTHER)).await), (None, false));

    assert_eq!(
        allowed(&own(&CorsLayer::any(), get(OTHER)).await),
        (Some(OTHER), false)
    );

    let off = CorsLayer::new().enabled(false);
    through(&off, get(APP), allowing(APP)).await;
    let answer = own(&off, get(APP)).await;
    assert_eq!(allowed(&answer), (None, false));
    assert!(!answer.headers().contains_key("vary"));
    assert_eq!(off.memory.permissions.sizes(), (0, 0));
    let on = CorsLayer::new().remembering_with(&listed);
    assert_eq!(allowed(&own(&on, get(OTHER)).await), (Some(OTHER), false));
}

#[tokio::test]
async fn masked_failure_keeps_the_cors_fields_of_the_service() {
    let cors = CorsLayer::any();
    let layers = (cors, UnavailableLayer::new(), MetricsLayer::new());
    let ours = ScriptedUpstream::new().status(503);
    let response = send_request(layers.clone(), get(APP), ours).await;
    assert_eq!(
        (response.status(), allowed(&response)),
        (200, (Some(APP), false))
    );
    let unavailable = allowing(OTHER).status(503).header("vary", "accept");
    let response = send_request(layers, get(APP), unavailable).await;
    assert_eq!(
        (response.status(), allowed(&response)),
        (200, (Some(OTHER), false))
    );
    assert_eq!(response.headers()["vary"], "accept");
}

#[tokio::test(start_paused = true)]
async fn invented_origins_of_one_client_do_not_displace_those_of_others() {
    let cors = CorsLayer::new();
    through(&cors, of(1, get(APP)), allowing(APP)).await;
    let reflect = async |origin: &str| {
        let name = Box::leak(origin.to_owned().into_boxed_str());
        for _ in 0..2 {
            through(&cors, of(2, get(origin)), allowing(name)).await;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    };
    for i in 0..2 * super::super::permissions::MAX_ORIGINS {
        reflect(&format!("https://{i}.test")).await;
    }
    assert_eq!(
        cors.memory.permissions.sizes(),
        (super::super::permissions::MAX_ORIGINS, 0)
    );
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), false));
    let gone = own(&cors, get("https://0.test")).await;
    assert_eq!(allowed(&gone), (None, false));

    // A full table has room for the origin of a real page.
    through(&cors, of(3, get(OTHER)), allowing(OTHER)).await;
    reflect("https://new.test").await;
    for origin in [APP, OTHER, "https://new.test"] {
        let answer = own(&cors, get(origin)).await;
        assert_eq!(allowed(&answer), (Some(origin), false));
    }
    tokio::time::advance(table::PERMISSION_TTL).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
}

#[tokio::test]
async fn permission_applies_to_one_virtual_host() {
    let with_credentials = || allowing(APP).header("access-control-allow-credentials", "true");
    for upstream in [with_credentials(), allowing("*")] {
        let cors = CorsLayer::new();
        through(&cors, at("/feed", "a.test", get(APP)), upstream).await;
        let a = own(&cors, at("/other", "A.test", get(APP))).await;
        assert_eq!(allowed(&a).0, Some(APP));
        for host in ["b.test", "a.test:8443", "a.test.b.test"] {
            let b = own(&cors, at("/feed", host, get(APP))).await;
            assert_eq!(allowed(&b), (None, false), "{host}");
        }
        for (name, value) in [
            ("x-forwarded-host", "b.test"),
            ("forwarded", "for=192.0.2.1;Host=b.test"),
        ] {
            let mut behind = at("/feed", "a.test", get(APP));
            let value = value.parse().unwrap();
            behind.headers_mut().insert(name, value);
            assert_eq!(allowed(&own(&cors, behind).await), (None, false), "{name}");
        }
        let uri = own(&cors, at("http://a.test/feed", "b.test", get(APP))).await;
        assert_eq!(allowed(&uri).0, Some(APP));
    }
}

#[tokio::test]
async fn response_without_permission_withdraws_it() {
    let refuses = ScriptedUpstream::new;
    let with = |name: &'static str, value: &str| {
        let mut request = get(APP);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let options = || {
        let mut request = get(APP);
        *request.method_mut() = Method::OPTIONS;
        request
    };
    let elsewhere = || at("/elsewhere", "x", get(APP));
    let known = || at("/feed", "x", get(APP));
    for (request, refusal, is_withdrawn) in [
        (known(), refuses(), true),
        (known(), refuses().status(403), true),
        (known(), allowing(OTHER), true),
        (elsewhere(), refuses(), true),
        // Of another client: only if the request is alike.
        (of(2, known()), refuses(), true),
        (of(2, elsewhere()), refuses(), false),
        (of(2, known()), refuses().status(403), false),
        // Which says nothing of the origin.
        (known(), refuses().status(500), false),
        (known(), refuses().status(404), false),
        (known(), refuses().status(302), false),
        (with("sec-fetch-mode", "navigate"), refuses(), false),
        (with("sec-fetch-mode", "no-cors"), refuses(), false),
        (with("sec-fetch-site", "same-origin"), refuses(), false),
        (options(), refuses(), false),
        (get(OTHER), refuses(), false),
    ] {
        let case = format!("{request:?}");
        let cors = CorsLayer::new();
        let named = |mut request: Request<()>| {
            let host = "x".parse().unwrap();
            request.headers_mut().insert("host", host);
            match request.extensions().get::<PeerAddr>() {
                Some(_) => request,
                None => of(1, request),
            }
        };
        through(&cors, named(get(APP)), allowing(APP)).await;
        through(&cors, named(request), refusal).await;
        let answer = own(&cors, named(get(APP))).await;
        assert_eq!(allowed(&answer).0.is_none(), is_withdrawn, "{case}");
    }
    // `*` as well.
    let cors = CorsLayer::new();
    through(&cors, get(APP), allowing("*")).await;
    through(&cors, get(OTHER), refuses()).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
}

#[tokio::test]
async fn response_without_credentials_withdraws_them_for_its_target() {
    let with_credentials = || allowing(APP).header("access-control-allow-credentials", "true");
    for without in [allowing(APP), allowing("*")] {
        let cors = CorsLayer::new();
        let public = || at("/public", "x", get(APP));
        let session = || at("/session", "x", get(APP));
        through(&cors, session(), with_credentials()).await;
        assert_eq!(allowed(&own(&cors, public()).await), (Some(APP), true));
        through(&cors, public(), without).await;
        assert_eq!(allowed(&own(&cors, public()).await), (Some(APP), false));
        assert_eq!(allowed(&own(&cors, session()).await), (Some(APP), true));
        through(&cors, public(), with_credentials()).await;
        assert_eq!(allowed(&own(&cors, public()).await), (Some(APP), true));
    }
}
