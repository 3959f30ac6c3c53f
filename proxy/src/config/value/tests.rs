use super::*;

fn from_text(kind: impl Into<Kind>, text: &str) -> Result<Value, String> {
    Value::from_text(kind.into(), text)
}

fn problem(kind: impl Into<Kind>, text: &str) -> String {
    from_text(kind, text).unwrap_err()
}

/// Reads a value as the file spells it.
fn toml(kind: impl Into<Kind>, text: &str) -> Result<Value, String> {
    Value::from_toml(kind.into(), DeValue::parse(text).unwrap().get_ref())
}

#[test]
fn duration_has_a_unit() {
    let kind = Shape::Duration.or_off();
    let fifteen = Value::Duration(Duration::from_secs(15));
    assert_eq!(from_text(kind, "15s"), Ok(fifteen));
    assert_eq!(problem(kind, "15"), "15 has no unit; write \"15s\"");
    assert_eq!(
        toml(kind, "15"),
        Err("15 has no unit; write \"15s\"".into())
    );
    assert!(problem(kind, "15x").contains("\"15x\" is not a duration"));
    assert!(problem(kind, "").contains("is not a duration"));
    assert!(problem(kind, "-5s").contains("is not a duration"));
}

#[test]
fn duration_of_zero_is_valid_only_where_it_makes_sense() {
    assert!(from_text(Shape::DurationOrZero, "0s").is_ok());
    assert!(problem(Shape::Duration, "0s").contains("above zero"));
    assert!(problem(Shape::Duration.or_off(), "0s").contains("\"off\""));
    assert!(problem(Shape::Duration.or_off(), "0").contains("\"off\""));
}

#[test]
fn duration_fits_every_clock() {
    assert!(problem(Shape::Duration, "1ns").contains("\"1ms\""));
    assert!(problem(Shape::Duration, "500years").contains("longer than a year"));
    assert!(problem(Shape::Duration, "99999999999999999999s").contains("not a duration"));
}

#[test]
fn off_is_the_only_word_that_switches_off() {
    for kind in [
        Shape::Duration.or_off(),
        Shape::Count.or_off(),
        Shape::Rate.or_off(),
    ] {
        assert_eq!(toml(kind, "\"off\""), Ok(Value::Off));
        assert!(toml(kind, "false").unwrap_err().contains("write \"off\""));
        assert!(toml(kind, "true").unwrap_err().contains("or \"off\""));
    }
    assert!(from_text(Shape::Count, "off").is_err());
    assert!(from_text(Shape::Duration, "off").is_err());
}

#[test]
fn size_has_a_unit_and_bounds() {
    let kind = Shape::Size(1024, 1 << 30).or_off();
    for (text, bytes) in [
        ("1024B", 1024),
        ("16KiB", 16 << 10),
        ("2 MiB", 2 << 20),
        ("1GiB", 1 << 30),
    ] {
        assert_eq!(from_text(kind, text), Ok(Value::Size(bytes)));
        assert_eq!(
            size_text(bytes),
            text.replace(' ', "").replace("1024B", "1KiB")
        );
    }
    assert_eq!(size_text(1500), "1500B");
    assert_eq!(toml(kind, "\"off\""), Ok(Value::Off));
    assert_eq!(
        toml(kind, "16"),
        Err("16 has no unit; write \"16KiB\"".into())
    );
    assert_eq!(
        problem(kind, "1023B"),
        "is too small; the minimum is \"1KiB\", or \"off\""
    );
    assert_eq!(
        problem(kind, "2GiB"),
        "is too large; the maximum is \"1GiB\", or \"off\""
    );
    for text in [
        "",
        "KiB",
        "16kb",
        "-1KiB",
        "1.5MiB",
        "99999999999999999999GiB",
    ] {
        assert!(problem(kind, text).contains("not a size"), "{text}");
    }
}

#[test]
fn count_is_a_number_above_zero_without_quotes() {
    let hundred = Value::Count(NonZeroU32::new(100).unwrap());
    assert_eq!(toml(Shape::Count.or_off(), "100"), Ok(hundred.clone()));
    assert_eq!(toml(Shape::Count.or_off(), "0x64"), Ok(hundred));
    assert!(
        toml(Shape::Count.or_off(), "\"100\"")
            .unwrap_err()
            .contains("100 is written without quotes")
    );
    assert!(
        toml(Shape::Count.or_off(), "0")
            .unwrap_err()
            .contains("no limit")
    );
    for text in ["-1", "1.5", "4294967296"] {
        assert!(
            toml(Shape::Count, text)
                .unwrap_err()
                .contains("not a count"),
            "{text}"
        );
    }
    let beyond = "99999999999999999999999";
    if let Ok(value) = DeValue::parse(beyond) {
        assert!(Value::from_toml(Shape::Count.into(), value.get_ref()).is_err());
    }
}

#[test]
fn rate_is_a_count_per_time() {
    let rate = |count, per| {
        Ok(Value::Rate(Rate {
            count: NonZeroU32::new(count).unwrap(),
            per: Duration::from_secs(per),
        }))
    };
    let kind = Shape::Rate.or_off();
    assert_eq!(from_text(kind, "50/s"), rate(50, 1));
    assert_eq!(from_text(kind, "10/m"), rate(10, 60));
    assert_eq!(from_text(kind, "1 / h"), rate(1, 3600));
    assert_eq!(problem(kind, "50"), "50 has no unit; write \"50/s\"");
    for text in ["0/s", "50/day", "/s", "fast"] {
        assert!(problem(kind, text).contains("is not a rate"), "{text}");
    }
}

#[test]
fn fraction_is_between_none_and_all() {
    assert_eq!(toml(Shape::Fraction, "0.1"), Ok(Value::Fraction(0.1)));
    assert_eq!(toml(Shape::Fraction, "1"), Ok(Value::Fraction(1.0)));
    for text in ["1.1", "-0.1", "nan", "inf", "10"] {
        assert!(
            toml(Shape::Fraction, text)
                .unwrap_err()
                .contains("not a share"),
            "{text}"
        );
    }
}

#[test]
fn text_is_one_line() {
    for text in ["a\nb", "a\rb", "a\r\n"] {
        assert!(problem(Shape::Text, text).contains("line break"));
        assert!(problem(Shape::Filled, text).contains("line break"));
    }
    assert!(from_text(Shape::Text, "").is_ok());
    assert!(problem(Shape::Filled, "").contains("is empty"));
}

#[test]
fn choice_is_one_of_its_words() {
    let kind = Shape::Choice(&["line", "block", "event"]);
    assert!(from_text(kind, "block").is_ok());
    assert_eq!(
        problem(kind, "lines"),
        "\"lines\" is not one of line, block, event; did you mean \"line\"?"
    );
    assert!(toml(kind, "1").unwrap_err().contains("one of \"line\""));
}

#[test]
fn address_is_numeric_localhost_or_all() {
    for kind in [Kind::from(Shape::Address), Shape::Address.or_off()] {
        for (text, address) in [
            ("[::1]:80", "[::1]:80"),
            (":80", "[::]:80"),
            (":0", "[::]:0"),
            ("localhost:80", "127.0.0.1:80"),
            ("LocalHost:80", "127.0.0.1:80"),
        ] {
            let address = Value::Address(address.parse().unwrap());
            assert_eq!(from_text(kind, text), Ok(address), "{text}");
        }
    }
    for text in [
        ":",
        ":+80",
        ":65536",
        "localhost",
        "localhost:",
        "::80",
        "*:80",
    ] {
        assert!(from_text(Shape::Address, text).is_err(), "{text}");
    }
    for text in ["localhost.:9000", "app.test:9000", "9000"] {
        assert!(
            problem(Shape::Address, text).contains("\"127.0.0.1:9000\""),
            "{text}"
        );
    }
}

#[test]
fn url_is_http_or_https_without_query_or_credentials() {
    for text in [
        "http://127.0.0.1:3000",
        "http://app",
        "HTTP://app/base/",
        "http://[::1]:1",
        "https://api.example",
        "HTTPS://app:8443/v1",
    ] {
        assert!(from_text(Shape::Url, text).is_ok(), "{text}");
    }
    let cases = [
        ("127.0.0.1:3000", "not an http:// or https:// URL"),
        ("ftp://app", "not an http:// or https:// URL"),
        ("http://app/?a=1", "query or fragment"),
        ("http://app/#a", "query or fragment"),
        ("http://app/a/../b", "dot segments"),
        ("http://app/%2e", "dot segments"),
        ("http://", "URL"),
        ("http://:80", "host"),
        ("http://app:0", "port"),
        ("http://app:", "port"),
        ("http://app:70000", ""),
    ];
    for (text, part) in cases {
        assert!(
            problem(Shape::Url, text).contains(part),
            "{text}: {}",
            problem(Shape::Url, text)
        );
    }
}

#[test]
fn path_is_as_a_request_line_has_it() {
    let kind = Shape::Path.or_off();
    for text in ["/", "/healthz", "/a%20b/c?deep=1&x=/"] {
        let path = text.parse().unwrap();
        assert_eq!(from_text(kind, text), Ok(Value::Path(path)));
    }
    assert_eq!(from_text(kind, "off"), Ok(Value::Off));
    for (text, part) in [
        ("", "begin with a slash; write one such as \"/healthz\""),
        ("healthz", "\"healthz\" does not begin with a slash"),
        ("http://app/healthz", "the value does not begin"),
        ("*", "begin with a slash"),
        ("/a#b", "has a fragment"),
        ("/a b", "%20"),
        ("/a\tb", "%20"),
        ("/a\r\nHost: x", "%20"),
        ("/\u{e4}", "%20"),
    ] {
        let problem = problem(kind, text);
        assert!(problem.contains(part), "{problem}");
    }
    assert!(toml(kind, "7").unwrap_err().contains("\"/healthz\""));
}

#[test]
fn problems_repeat_no_secret() {
    let secrets = [
        "http://user:hunter2@app",
        "https://user:hunter2@app",
        "user:hunter2@app",
        "http://app/?key=hunter2",
        "key=hunter2",
    ];
    let kinds = [
        Shape::Url.into(),
        Shape::Address.into(),
        Shape::Duration.into(),
        Shape::Count.or_off(),
        Shape::Rate.or_off(),
        Shape::Fraction.into(),
        Shape::Bool.into(),
        Shape::Prefix.into(),
        Shape::Networks.into(),
        Kind::from(Shape::Choice(&["line"])),
    ];
    for kind in kinds {
        for secret in secrets {
            let problem = problem(kind, secret);
            assert!(!problem.to_lowercase().contains("hunter2"), "{problem}");
        }
    }
    assert!(
        !problem(Shape::Methods, "key=hunter2")
            .to_lowercase()
            .contains("hunter2")
    );
}

#[test]
fn port_may_be_a_boolean() {
    let kind = Shape::BoolOrPort;
    for (text, value) in [
        ("true", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("1", Value::Port(NonZeroU16::MIN)),
        ("65535", Value::Port(NonZeroU16::MAX)),
    ] {
        assert_eq!(from_text(kind, text), Ok(value.clone()));
        assert_eq!(toml(kind, text), Ok(value));
        assert!(
            toml(kind, &format!("\"{text}\""))
                .unwrap_err()
                .contains("without quotes")
        );
    }
    for text in ["0", "65536", "+443", "https", "off", "4.5"] {
        assert!(problem(kind, text).contains("neither a port"), "{text}");
    }
    assert!(toml(kind, "4.5").unwrap_err().contains("neither a port"));
    assert!(
        toml(kind, "[443]")
            .unwrap_err()
            .contains("true, false or a port")
    );
}

#[test]
fn lists_are_arrays_in_the_file_and_commas_elsewhere() {
    let networks = toml(Shape::Networks, "[\"10.0.0.0/8\", \"::1\"]");
    assert_eq!(networks, from_text(Shape::Networks, "10.1.2.3/8, ::1"));
    assert_eq!(from_text(Shape::Words, ""), Ok(Value::Words(Vec::new())));
    assert!(
        toml(Shape::Networks, "\"10.0.0.0/8\"")
            .unwrap_err()
            .contains("brackets")
    );
    assert!(
        toml(Shape::Networks, "[10]")
            .unwrap_err()
            .contains("quotes")
    );
    assert!(problem(Shape::Networks, "10.0.0.0/8,,").contains("not a network"));
    assert!(problem(Shape::Networks, "10.0.0.0/33").contains("not a network"));
}

#[test]
fn methods_are_in_capitals() {
    let both = Value::Methods(vec![Method::GET, Method::POST]);
    assert_eq!(toml(Shape::Methods, "[\"GET\", \"POST\"]"), Ok(both));
    assert!(problem(Shape::Methods, "get").contains("write \"GET\""));
    assert!(problem(Shape::Methods, "G ET").contains("not an HTTP method"));
    assert!(problem(Shape::Methods, "").contains("no method"));
}

#[test]
fn origin_is_what_browsers_send() {
    let origins = |text| from_text(Shape::Origins.or_off(), text);
    let list = |items: &[&str]| {
        let items = items.iter().map(|item| (*item).to_owned());
        Ok(Value::Origins(Origins::List(items.collect())))
    };
    assert_eq!(origins("upstream"), Ok(Value::Origins(Origins::Upstream)));
    assert_eq!(origins("*"), Ok(Value::Origins(Origins::Any)));
    assert_eq!(origins("off"), Ok(Value::Off));
    for (text, expected) in [
        ("https://app.example", list(&["https://app.example"])),
        ("HTTPS://App.Example:443", list(&["https://app.example"])),
        (
            "http://localhost:80, null",
            list(&["http://localhost", "null"]),
        ),
        ("http://[::1]:5173", list(&["http://[::1]:5173"])),
        (
            "chrome-extension://abcdef",
            list(&["chrome-extension://abcdef"]),
        ),
    ] {
        assert_eq!(origins(text), expected, "{text}");
    }
    for text in [
        "",
        "app.example",
        "https://app.example/",
        "https://app.example/x",
        "https://*.example",
        "https://user@app.example",
        "https://",
        "https://a b",
        "*,https://app.example",
        "https://app.example,upstream",
    ] {
        assert!(origins(text).is_err(), "{text}");
    }
}

#[test]
fn bool_that_depends_on_the_stream_is_auto() {
    let kind = Shape::BoolOrAuto;
    assert_eq!(from_text(kind, "auto"), Ok(Value::Auto));
    assert_eq!(from_text(kind, "true"), Ok(Value::Bool(true)));
    assert_eq!(toml(kind, "'auto'"), Ok(Value::Auto));
    assert_eq!(toml(kind, "false"), Ok(Value::Bool(false)));
    assert_eq!(
        problem(kind, "yes"),
        "\"yes\" is none of auto, true and false"
    );
    assert_eq!(
        toml(kind, "'true'"),
        Err("true is written without quotes".into())
    );
    assert!(from_text(Shape::Bool, "auto").is_err());
}

#[test]
fn ready_when_is_any_all_or_named_routes() {
    let kind = Shape::ReadyWhen;
    let value = |when| Ok(Value::ReadyWhen(when));
    let routes =
        |paths: &[&str]| ReadyWhen::Routes(paths.iter().map(ToString::to_string).collect());
    for (text, expected) in [
        ("any", ReadyWhen::Any),
        ("all", ReadyWhen::All),
        ("/v1", routes(&["/v1"])),
        ("/v1, /", routes(&["/v1", "/"])),
    ] {
        assert_eq!(from_text(kind, text), value(expected.clone()), "{text}");
        assert_eq!(toml(kind, &format!("{text:?}")), value(expected), "{text}");
    }
    assert_eq!(
        toml(kind, "['/{a,b}', '/']"),
        value(routes(&["/{a,b}", "/"]))
    );
    for (text, expected) in [
        (
            "al",
            "\"al\" is not the path of a route; did you mean \"all\"?",
        ),
        (
            "none",
            "\"none\" is not the path of a route; write \"any\", \"all\", or paths",
        ),
        ("off", "\"off\" is not the path of a route"),
        ("/v1,any", "\"any\" cannot be combined with others"),
        ("", "is not the path of a route"),
    ] {
        let found = problem(kind, text);
        assert!(found.contains(expected), "{text}: {found}");
    }
    assert!(toml(kind, "[]").unwrap_err().contains("lists no route"));
    assert!(
        toml(kind, "[1]")
            .unwrap_err()
            .contains("put each in quotes")
    );
    assert!(
        toml(kind, "true")
            .unwrap_err()
            .contains("\"any\", \"all\", or a list")
    );
}

#[test]
fn upstream_host_is_a_word_or_a_valid_authority() {
    for text in [
        "auto",
        "pass",
        "upstream",
        "app.example",
        "app.example:8080",
        "[2001:db8::1]:80",
        "xn--bcher-kva.example",
    ] {
        let value = Value::Text(text.to_owned());
        assert_eq!(from_text(Shape::UpstreamHost, text), Ok(value), "{text}");
    }
    for (text, part) in [
        ("", "its host is empty"),
        ("off", "write \"auto\", \"pass\""),
        ("http://app.example", "is not a host"),
        ("app.example/path", "an invalid character"),
        ("a b", "an invalid character"),
        ("a,b", "an invalid character"),
        ("user@app.example", "it names a user"),
        ("app.example:http", "its port is not"),
        ("app.example:65536", "its port is not"),
        ("2001:db8::1", "its port is not"),
        ("[app]", "brackets"),
        ("b\u{fc}cher.example", "an invalid character"),
    ] {
        let problem = problem(Shape::UpstreamHost, text);
        assert!(problem.contains(part), "{text}: {problem}");
        assert!(problem.contains("\"app.example\""), "{text}: {problem}");
    }
}
