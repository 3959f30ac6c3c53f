//! An upstream that binds logins to connections.

use super::*;

const OFFER: &str =
    "WWW-Authenticate: Basic realm=\"a, b\", Negotiate\r\nWWW-Authenticate: NTLM\r\n";

/// What a connection to the server has come to.
#[derive(Default)]
struct Session {
    challenge: Option<String>,
    user: Option<String>,
}

impl Session {
    /// Whether the request goes on to its answer; else it has been told to log in.
    fn logs_in(&mut self, received: &ReceivedRequest, to: &mut Answer) -> bool {
        static CHALLENGES: AtomicUsize = AtomicUsize::new(0);
        let credentials: Vec<_> = fields(received, "authorization").collect();
        for value in credentials {
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            let token = token.trim();
            if scheme.eq_ignore_ascii_case("ntlm") && token == "one" {
                let challenge = format!("two-{}", CHALLENGES.fetch_add(1, SeqCst));
                let head = format!(
                    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM {challenge}\r\n\
                     Content-Length: 2\r\n\r\nno"
                );
                self.challenge = Some(challenge);
                to.raw(head.as_bytes());
                return false;
            } else if scheme.eq_ignore_ascii_case("ntlm") {
                let challenge = self.challenge.take();
                let known = challenge.and_then(|challenge| {
                    token
                        .strip_prefix(&format!("three-{challenge}-"))
                        .map(str::to_owned)
                });
                self.user = known;
            } else if ["negotiate", "kerberos"].contains(&&*scheme.to_ascii_lowercase()) {
                self.user = Some(token.to_owned());
            }
        }
        if self.user.is_some() || received.path.starts_with("/public") {
            return true;
        }
        to.raw(
            format!("HTTP/1.1 401 Unauthorized\r\n{OFFER}Content-Length: 2\r\n\r\nno").as_bytes(),
        );
        false
    }
}

fn fields<'a>(received: &'a ReceivedRequest, name: &'a str) -> impl Iterator<Item = &'a str> {
    received.head.lines().filter_map(move |line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Takes the request's body.
fn upload(received: &ReceivedRequest, to: &mut Answer) {
    if let Some(length) = received.field("content-length") {
        to.body(length.parse().unwrap());
    } else if received.field("transfer-encoding").is_some() {
        let mut end = Vec::new();
        while !end.ends_with(b"0\r\n\r\n") {
            end.extend(to.body(1));
        }
    }
}

/// Answers requests on a connection until that ends, each with the user's name in it.
fn serve(received: ReceivedRequest, to: &mut Answer) {
    serve_when(received, to, || ());
}

/// The same, with what happens before the answer to `/slow`.
pub(super) fn serve_when(mut received: ReceivedRequest, to: &mut Answer, ready: impl Fn()) {
    let mut session = Session::default();
    loop {
        // An answer that does not wait for the request's body.
        let is_early = received.path == "/early";
        if !is_early {
            upload(&received, to);
        }
        if session.logs_in(&received, to) {
            let user = session.user.as_deref().unwrap_or("nobody");
            match received.path.trim_start_matches("/public") {
                path @ ("/events" | "/slow") => {
                    if path == "/slow" {
                        ready();
                    }
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk(format!("id: 1\ndata: {user}\n\n"));
                    to.end();
                }
                "/open" => {
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk(format!("id: 1\ndata: {user}\n\n"));
                    to.wait_for_close();
                    return;
                }
                "/broken" if received.field("last-event-id").is_some() => {
                    to.raw(
                        format!("HTTP/1.1 401 Unauthorized\r\n{OFFER}Content-Length: 2\r\n\r\nno")
                            .as_bytes(),
                    );
                }
                "/broken" => {
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk(format!("id: 1\ndata: {user}\n\n"));
                    return;
                }
                "/hangup" => return,
                "/unavailable" => {
                    to.raw(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\naway");
                }
                "/partly" => {
                    to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\npart");
                    to.wait_for_close();
                    return;
                }
                "/silent" => {
                    to.wait_for_close();
                    return;
                }
                "/close" => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{user}",
                        user.len()
                    );
                    to.raw(head.as_bytes());
                    return;
                }
                "/then-close" => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}",
                        user.len()
                    );
                    to.raw(head.as_bytes());
                    return;
                }
                "/ws" if received.field("upgrade").is_some() => {
                    let head = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\n\r\n{user}"
                    );
                    to.raw(head.as_bytes());
                    to.wait_for_close();
                    return;
                }
                _ => {
                    let length = user.len();
                    let body = if received.head.starts_with("HEAD") {
                        ""
                    } else {
                        user
                    };
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                    to.raw(head.as_bytes());
                }
            }
        }
        if is_early {
            upload(&received, to);
        }
        match to.next_request() {
            Some(next) => received = next,
            None => return,
        }
    }
}

pub(super) fn server() -> Origin {
    Origin::start(serve)
}
