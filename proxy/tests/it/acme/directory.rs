//! A CA over ACME, RFC 8555: it verifies signatures and nonces, and names by connecting to the proxy.

use super::validation;
use crate::support::tls::{Authority, TlsAnswer, TlsOrigin, server_config};
use crate::support::{Gate, ReceivedRequest};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::version::TLS13;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use x509_cert::der::Decode;
use x509_cert::request::CertReq;

/// What the CA does, and how it finds the proxy.
#[derive(Clone)]
pub(super) struct Behaviour {
    /// Where names are verified, in place of their ports 80 and 443.
    pub(super) http: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) lifetime: Duration,
    /// It suggests to renew each certificate at once.
    pub(super) suggests_renewal: bool,
    /// It waits with each order but the first ones for this.
    pub(super) gate: Option<(usize, Arc<Gate>)>,
    /// So many requests are refused for their nonce first.
    pub(super) bad_nonces: u32,
}

pub(super) struct Directory {
    server: TlsOrigin,
    state: Arc<State>,
    /// Of the server itself.
    pub(super) server_ca: String,
}

struct State {
    /// Of the certificates that it issues.
    authority: Arc<Authority>,
    behaviour: Mutex<Behaviour>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    nonces: HashSet<String>,
    next_nonce: u32,
    /// The key of the account, and its thumbprint.
    account: Option<(Vec<u8>, String)>,
    orders: Vec<Order>,
    requests: Vec<String>,
    problems: Vec<String>,
}

struct Order {
    name: String,
    /// `pending`, `ready`, `valid` or `invalid`.
    status: &'static str,
    error: Option<Value>,
    replaces: Option<String>,
    certificate: Option<String>,
}

/// The key of a certificate request.
struct RequestedKey(Vec<u8>);

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A response: status, a field, and the body.
type Reply = (u16, String, String);

fn problem(kind: &str, detail: &str) -> Value {
    json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": 403})
}

impl Directory {
    pub(super) fn start(authority: &Arc<Authority>, behaviour: Behaviour) -> Self {
        let server_authority = Authority::new("CA of the ACME server");
        let config = server_config(&server_authority.issue(&["127.0.0.1"]), &[&TLS13]);
        let state = Arc::new(State {
            authority: authority.clone(),
            behaviour: Mutex::new(behaviour),
            inner: Mutex::default(),
        });
        let of_server = state.clone();
        let server = TlsOrigin::start(config, move |request, to| of_server.serve(&request, to));
        Self {
            server,
            state,
            server_ca: server_authority.pem(),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}/directory", self.server.addr)
    }

    /// The method and path of each request.
    pub(super) fn requests(&self) -> Vec<String> {
        self.state.inner.lock().unwrap().requests.clone()
    }

    /// The names of the orders, and the certificate that each replaces.
    pub(super) fn orders(&self) -> Vec<(String, Option<String>)> {
        let inner = self.state.inner.lock().unwrap();
        let orders = inner.orders.iter();
        orders
            .map(|order| (order.name.clone(), order.replaces.clone()))
            .collect()
    }

    /// What a client has done wrong.
    pub(super) fn problems(&self) -> Vec<String> {
        self.state.inner.lock().unwrap().problems.clone()
    }
}

impl State {
    fn serve(&self, request: &ReceivedRequest, to: &mut TlsAnswer) {
        let host = request.field("host").unwrap().to_owned();
        let length = request
            .field("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let body = to.body(length);
        let method = request.head.split(' ').next().unwrap();
        let path = request.path.as_str();
        let line = format!("{method} {path}");
        self.inner.lock().unwrap().requests.push(line);
        let (status, field, text) = match method {
            "GET" | "HEAD" => self.get(&host, path),
            _ => match self.payload(&host, path, &body) {
                Ok(payload) => self.post(&host, path, &payload),
                Err(kind) => {
                    let text = problem(kind, "refused by the test").to_string();
                    let mut inner = self.inner.lock().unwrap();
                    inner.problems.push(format!("{kind} at {path}"));
                    (400, String::new(), text)
                }
            },
        };
        let nonce = {
            let mut inner = self.inner.lock().unwrap();
            inner.next_nonce += 1;
            let nonce = format!("nonce{}", inner.next_nonce);
            inner.nonces.insert(nonce.clone());
            nonce
        };
        let kind = match status {
            200..300 => "application/json",
            _ => "application/problem+json",
        };
        let sent = if method == "HEAD" { "" } else { text.as_str() };
        to.raw(format!(
            "HTTP/1.1 {status} X\r\nReplay-Nonce: {nonce}\r\nContent-Type: {kind}\r\n{field}\
             Content-Length: {}\r\nConnection: close\r\n\r\n{sent}",
            text.len()
        ));
    }

    fn get(&self, host: &str, path: &str) -> Reply {
        let url = |path: &str| format!("https://{host}{path}");
        if path == "/directory" {
            let directory = json!({
                "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
                "renewalInfo": url("/renewal"),
            });
            return (200, String::new(), directory.to_string());
        }
        if path == "/nonce" {
            return (200, String::new(), String::new());
        }
        assert!(path.starts_with("/renewal/"), "{path}");
        let behaviour = self.behaviour.lock().unwrap().clone();
        let at = |offset: u64| {
            let day = Duration::from_secs(24 * 60 * 60);
            let now = SystemTime::now();
            let time = match behaviour.suggests_renewal {
                true => now - day + Duration::from_secs(offset),
                false => now + 10 * day + Duration::from_secs(offset),
            };
            humantime::format_rfc3339_seconds(time).to_string()
        };
        let window = json!({"suggestedWindow": {"start": at(0), "end": at(60)}});
        (200, "Retry-After: 21600\r\n".to_owned(), window.to_string())
    }

    /// The payload of a request whose signature and nonce are valid.
    fn payload(&self, host: &str, path: &str, body: &[u8]) -> Result<Value, &'static str> {
        let jws: Value = serde_json::from_slice(body).map_err(|_| "malformed")?;
        let part = |name: &str| jws[name].as_str().unwrap_or_default().to_owned();
        let decode = |name: &str| BASE64.decode(part(name)).map_err(|_| "malformed");
        let protected: Value =
            serde_json::from_slice(&decode("protected")?).map_err(|_| "malformed")?;
        if protected["url"] != format!("https://{host}{path}") || protected["alg"] != "ES256" {
            return Err("unauthorized");
        }
        let mut inner = self.inner.lock().unwrap();
        let is_known = inner
            .nonces
            .remove(protected["nonce"].as_str().unwrap_or_default());
        let mut behaviour = self.behaviour.lock().unwrap();
        if !is_known || behaviour.bad_nonces > 0 {
            behaviour.bad_nonces = behaviour.bad_nonces.saturating_sub(1);
            return Err("badNonce");
        }
        if path == "/account" {
            let jwk = &protected["jwk"];
            let coordinate = |name: &str| BASE64.decode(jwk[name].as_str().unwrap_or_default());
            let mut key = vec![4];
            key.extend(coordinate("x").map_err(|_| "malformed")?);
            key.extend(coordinate("y").map_err(|_| "malformed")?);
            // RFC 7638: the required members in their order.
            let members = format!(
                r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#,
                jwk["x"], jwk["y"]
            );
            let thumb = BASE64.encode(digest(&SHA256, members.as_bytes()));
            inner.account = Some((key, thumb));
        } else if protected["kid"] != format!("https://{host}/account/1") {
            return Err("accountDoesNotExist");
        }
        let Some((key, _)) = &inner.account else {
            return Err("accountDoesNotExist");
        };
        let signed = format!("{}.{}", part("protected"), part("payload"));
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
        key.verify(signed.as_bytes(), &decode("signature")?)
            .map_err(|_| "unauthorized")?;
        let payload = decode("payload")?;
        Ok(serde_json::from_slice(&payload).unwrap_or(Value::Null))
    }

    fn post(&self, host: &str, path: &str, payload: &Value) -> Reply {
        let mut parts = path.trim_start_matches('/').split('/');
        let (kind, index) = (parts.next().unwrap(), parts.next());
        let index: usize = index.map_or(0, |index| index.parse().unwrap());
        match kind {
            "account" => {
                let agreed = payload["termsOfServiceAgreed"] == true;
                assert!(
                    agreed && payload["contact"][0] == "mailto:ops@app.test",
                    "{payload}"
                );
                let location = format!("Location: https://{host}/account/1\r\n");
                (201, location, json!({"status": "valid"}).to_string())
            }
            "order" if index == 0 => {
                let gate = self.behaviour.lock().unwrap().gate.clone();
                let count = self.inner.lock().unwrap().orders.len();
                if let Some((_, gate)) = gate.filter(|(free, _)| count >= *free) {
                    gate.opens();
                }
                let mut inner = self.inner.lock().unwrap();
                inner.orders.push(Order {
                    name: payload["identifiers"][0]["value"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                    status: "pending",
                    error: None,
                    replaces: payload["replaces"].as_str().map(str::to_owned),
                    certificate: None,
                });
                let index = inner.orders.len();
                drop(inner);
                let location = format!("Location: https://{host}/order/{index}\r\n");
                (201, location, self.order(host, index))
            }
            "order" => (200, String::new(), self.order(host, index)),
            "authorization" => (200, String::new(), self.authorization(host, index)),
            "challenge" => {
                self.validate(index, parts.next().unwrap());
                let url = format!("https://{host}{path}");
                let challenge =
                    json!({"type": "http-01", "url": url, "token": "x", "status": "processing"});
                (200, String::new(), challenge.to_string())
            }
            "finalize" => {
                let csr = BASE64.decode(payload["csr"].as_str().unwrap()).unwrap();
                self.issue(index, &csr);
                (200, String::new(), self.order(host, index))
            }
            "certificate" => {
                let inner = self.inner.lock().unwrap();
                let certificate = inner.orders[index - 1].certificate.clone();
                (200, String::new(), certificate.unwrap())
            }
            other => panic!("{other}"),
        }
    }

    fn order(&self, host: &str, index: usize) -> String {
        let inner = self.inner.lock().unwrap();
        let order = &inner.orders[index - 1];
        let url = |kind: &str| format!("https://{host}/{kind}/{index}");
        let mut state = json!({
            "status": order.status, "authorizations": [url("authorization")], "finalize": url("finalize"),
        });
        if order.certificate.is_some() {
            state["certificate"] = url("certificate").into();
        }
        if let Some(replaces) = &order.replaces {
            state["replaces"] = replaces.as_str().into();
        }
        state.to_string()
    }

    fn token(index: usize) -> String {
        format!("token-of-order_{index}")
    }

    fn authorization(&self, host: &str, index: usize) -> String {
        let inner = self.inner.lock().unwrap();
        let order = &inner.orders[index - 1];
        let status = match order.status {
            "ready" => "valid",
            status => status,
        };
        let challenges = ["http-01", "tls-alpn-01", "dns-01"].map(|kind| {
            let url = format!("https://{host}/challenge/{index}/{kind}");
            let token = Self::token(index);
            let mut challenge = json!({"type": kind, "url": url, "token": token, "status": status});
            if let Some(error) = &order.error {
                challenge["error"] = error.clone();
            }
            challenge
        });
        json!({
            "status": status, "challenges": challenges,
            "identifier": {"type": "dns", "value": order.name},
        })
        .to_string()
    }

    fn validate(&self, index: usize, kind: &str) {
        let behaviour = self.behaviour.lock().unwrap().clone();
        let (name, thumb) = {
            let inner = self.inner.lock().unwrap();
            let (_, thumb) = inner.account.clone().unwrap();
            (inner.orders[index - 1].name.clone(), thumb)
        };
        let token = Self::token(index);
        let expected = format!("{token}.{thumb}");
        let verified = match kind {
            "http-01" => validation::http(behaviour.http, &name, &token, &expected),
            _ => validation::tls_alpn(behaviour.tls, &name, &expected),
        };
        let mut inner = self.inner.lock().unwrap();
        let order = &mut inner.orders[index - 1];
        match verified {
            Ok(()) => order.status = "ready",
            Err(detail) => {
                order.status = "invalid";
                order.error = Some(problem("connection", &detail));
            }
        }
    }

    fn issue(&self, index: usize, csr: &[u8]) {
        let csr = CertReq::from_der(csr).unwrap();
        let key = csr.info.public_key.subject_public_key.raw_bytes();
        let lifetime = self.behaviour.lock().unwrap().lifetime;
        let mut inner = self.inner.lock().unwrap();
        let order = &mut inner.orders[index - 1];
        assert_eq!(order.status, "ready");
        let now = SystemTime::now();
        let pem = self
            .authority
            .sign(&[&order.name], &RequestedKey(key.to_vec()), |params| {
                params.use_authority_key_identifier_extension = true;
                params.not_before = now.into();
                params.not_after = (now + lifetime).into();
            });
        order.certificate = Some(pem + &self.authority.pem());
        order.status = "valid";
    }
}
