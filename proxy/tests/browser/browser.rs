//! A headless Chromium, driven by WebDriver.

#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use crate::support::{PATIENCE, skipped};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thirtyfour::CapabilitiesHelper;
use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities;
use thirtyfour::error::{WebDriverError, WebDriverResult};
use thirtyfour::session::http::{Body, HttpClient};
use thirtyfour::{By, DesiredCapabilities, LoggingPrefsLogLevel, WebDriver};
use tokio::runtime::Runtime;

/// Chromium and its driver, ended on drop.
pub struct Browser {
    driver: Child,
    /// Of what they leave behind.
    _files: TempDir,
    runtime: Runtime,
    web: Option<WebDriver>,
}

impl Browser {
    /// Or nothing, and a word about it, if the machine has none.
    pub fn start() -> Option<Self> {
        let files = TempDir::new().unwrap();
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", files.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                skipped(&format!("what takes a browser: chromedriver: {error}"));
                return None;
            }
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        // What it says from now on must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let runtime = Runtime::new().unwrap();
        let mut browser = Self {
            driver,
            _files: files,
            runtime,
            web: None,
        };
        let address = format!("http://127.0.0.1:{}", port.unwrap());
        let web = WebDriver::builder(address, wishes().unwrap())
            .client(Http::new())
            .request_timeout(2 * PATIENCE)
            .connect();
        browser.web = Some(browser.runtime.block_on(web).unwrap());
        Some(browser)
    }

    fn web(&self) -> &WebDriver {
        self.web.as_ref().unwrap()
    }

    pub fn open(&self, url: &str) {
        self.runtime.block_on(self.web().goto(url)).unwrap();
    }

    /// What a function's body returns.
    pub fn run(&self, script: &str) -> Value {
        let run = self.web().execute(script, Vec::new());
        let result = self.runtime.block_on(run);
        result
            .unwrap_or_else(|error| panic!("{script}: {error}"))
            .json()
            .clone()
    }

    /// What a promise comes to that a function's body returns.
    pub fn run_async(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; \
             (async () => {{ {body} }})().then(done, (error) => done(String(error)));"
        );
        let run = self.web().execute_async(script, Vec::new());
        let result = self.runtime.block_on(run);
        result
            .unwrap_or_else(|error| panic!("{body}: {error}"))
            .json()
            .clone()
    }

    /// Until an expression is true, and asserts that it comes to that.
    #[track_caller]
    pub fn wait_for(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        let start = Instant::now();
        while self.run(&script) != Value::Bool(true) {
            let page = || self.run("return document.body.innerText");
            assert!(
                start.elapsed() < PATIENCE,
                "never came: {expression}\n{}",
                page()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn click(&self, css: &str) {
        let click = async { self.web().find(By::Css(css)).await?.click().await };
        let result: WebDriverResult<()> = self.runtime.block_on(click);
        result.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Writes where the element is that `css` finds.
    pub fn write(&self, css: &str, text: &str) {
        let write = async { self.web().find(By::Css(css)).await?.send_keys(text).await };
        let result: WebDriverResult<()> = self.runtime.block_on(write);
        result.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Presses keys where the focus is; Shift and the like are held to the last of them.
    pub fn press(&self, keys: &str) {
        let press = async { self.web().active_element().await?.send_keys(keys).await };
        let result: WebDriverResult<()> = self.runtime.block_on(press);
        result.unwrap();
    }

    /// A command of the browser's own protocol.
    pub fn command(&self, name: &str, parameters: Value) -> Value {
        let cdp = self.web().cdp();
        let sent = cdp.send_raw(name, parameters);
        self.runtime.block_on(sent).unwrap()
    }

    pub fn resize(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", size);
    }

    /// `light` or `dark`.
    pub fn colours(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    /// Errors in the page since the last call.
    pub fn problems(&self) -> Vec<String> {
        let log = self.runtime.block_on(self.web().browser_log()).unwrap();
        log.into_iter().map(|entry| entry.message).collect()
    }

    /// Takes a picture at this size and in this scheme, once the page fits: it does not scroll sideways.
    pub fn photograph_at(&self, name: &str, scheme: &str, width: u32, height: u32) {
        self.colours(scheme);
        self.resize(width, height);
        self.wait_for(&format!(
            "innerWidth === {width} && document.documentElement.scrollWidth <= {width}"
        ));
        self.photograph(name);
    }

    /// Puts a picture where those who look after the tests find it: `dashboard/` of cargo's
    /// directory.
    pub fn photograph(&self, name: &str) -> PathBuf {
        let place = screenshots();
        std::fs::create_dir_all(&place).unwrap();
        let file = place.join(format!("{name}.png"));
        let shot = self.runtime.block_on(self.web().screenshot_as_png());
        std::fs::write(&file, shot.unwrap()).unwrap();
        file
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium goes with its session, not with its driver.
        if let Some(web) = self.web.take() {
            let quit = async { tokio::time::timeout(PATIENCE, web.quit()).await };
            let _ = self.runtime.block_on(quit);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// `dashboard/` of cargo's directory, in which this program is three levels down.
fn screenshots() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).unwrap().join("dashboard")
}

fn wishes() -> WebDriverResult<thirtyfour::ChromeCapabilities> {
    let mut wishes = DesiredCapabilities::chrome();
    for argument in [
        "--headless=new",
        // Containers let neither root nor others make what it takes.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        "--hide-scrollbars",
        "--lang=en",
        // What glides into view is not where it was when it is clicked.
        "--force-prefers-reduced-motion",
    ] {
        wishes.add_arg(argument)?;
    }
    // The CA of a test is not the browser's.
    wishes.accept_insecure_certs(true)?;
    wishes.set_browser_log_level(LoggingPrefsLogLevel::Severe)?;
    Ok(wishes)
}

/// What carries commands to the driver.
struct Http(Client<HttpConnector, Full<Bytes>>);

impl Http {
    fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    async fn exchange(&self, request: Request<Body<'_>>) -> WebDriverResult<Response<Bytes>> {
        let failed = |error: &dyn std::error::Error| WebDriverError::HttpError(error.to_string());
        let request = request.map(|body| match body {
            Body::Empty => Full::default(),
            Body::Json(json) => Full::from(json.to_string()),
        });
        let response = self.0.request(request).await;
        let (head, body) = response.map_err(|error| failed(&error))?.into_parts();
        let body = body.collect().await.map_err(|error| failed(&error))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl HttpClient for Http {
    fn send<'own, 'body, 'both>(
        &'own self,
        request: Request<Body<'body>>,
    ) -> Later<'both, WebDriverResult<Response<Bytes>>>
    where
        'own: 'both,
        'body: 'both,
    {
        Box::pin(self.exchange(request))
    }

    fn new<'own, 'both>(&'own self) -> Later<'both, Arc<dyn HttpClient>>
    where
        'own: 'both,
    {
        Box::pin(async { Arc::new(Self::new()) as Arc<dyn HttpClient> })
    }
}
