//! One HTTP request for a range of a file, with its redirects. The token of the user goes to the server that the file was
//! asked from, and to no other.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use crate::error::FetchError;

/// Seconds without a byte after which a connection counts as cut.
const STALLED: Duration = Duration::from_secs(20);
/// Seconds for making a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Largest number of redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Longest time that a server can ask a client to wait.
const MAX_WAIT: Duration = Duration::from_secs(300);

pub const TRY_AGAIN: &str = "Check the network, and run the same command again";
const CHANGED: &str = "Run the same command again; it then reads the new version";

/// Why a request gave no bytes, or not all of them.
pub enum Trouble {
    /// No further request can help.
    Final(FetchError),
    /// A further request may help, after this time if the server named one.
    Passing { why: String, wait: Option<Duration> },
    /// The address that the hub had redirected to is no longer taken: the hub has to be asked again.
    Expired(String),
}

impl Trouble {
    fn passing(why: impl Into<String>) -> Self {
        Self::Passing { why: why.into(), wait: None }
    }

    fn changed(what: impl Into<String>) -> Self {
        Self::Final(FetchError::failed(what, CHANGED))
    }
}

/// What is known of a file from earlier answers.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The address that the hub redirects to.
    pub resolved: Option<String>,
    /// The origin that gave `etag`, and the version of the file there.
    pub etag: Option<(String, String)>,
    /// The version of the file on the hub: for large files their SHA-256.
    pub linked_etag: Option<String>,
}

/// A file as the hub lists it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Name in the repository.
    pub name: String,
    /// Address of the file at one commit.
    pub url: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits, where the hub names one.
    pub sha256: Option<String>,
}

/// An answer whose body begins with the byte that was asked for.
pub struct Answer {
    body: ureq::BodyReader<'static>,
}

impl Answer {
    /// Reads the next bytes. The error says that the connection is cut.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Trouble> {
        match self.body.read(buf) {
            Ok(0) => Err(Trouble::passing("the connection was cut")),
            Ok(n) => Ok(n),
            Err(e) => Err(Trouble::passing(format!("the connection was cut: {e}"))),
        }
    }
}

/// Connections to the hub and to the servers that the hub redirects to.
pub struct Client {
    agent: Agent,
    token: Option<Zeroizing<String>>,
    /// The commit that all files belong to.
    commit: Option<String>,
}

impl Client {
    /// A client that keeps up to `connections` connections open.
    pub fn new(token: Option<String>, commit: Option<String>, connections: usize) -> Self {
        let tls = TlsConfig::builder().root_certs(root_certificates()).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(STALLED))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .max_idle_age(Duration::from_secs(60))
            .user_agent(concat!("srd-rs/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), token: token.map(Zeroizing::new), commit }
    }

    /// Asks for the bytes `start .. end` of a file. `known` is brought up to date.
    pub fn ask(&self, file: &Listed, (start, end): (u64, u64), known: &mut Known) -> Result<Answer, Trouble> {
        let home = origin(&file.url).ok_or_else(|| bad_address(&file.url))?;
        let mut url = known.resolved.clone().unwrap_or_else(|| file.url.clone());
        for _ in 0..=MAX_REDIRECTS {
            let here = origin(&url).ok_or_else(|| bad_address(&url))?;
            let mut request =
                self.agent.get(&url).header(header::RANGE, format!("bytes={start}-{}", end - 1));
            if let Some(token) = self.token.as_ref().filter(|_| here == home) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.as_str()));
            }
            let version = known.etag.as_ref().filter(|(from, tag)| *from == here && !tag.starts_with("W/"));
            if let Some((_, etag)) = version {
                request = request.header(header::IF_RANGE, etag);
            }
            let asked_with_version = version.is_some();
            let response = request.call().map_err(|e| passing_or_final(&here, &e))?;
            if here == home {
                self.check_revision(file, response.headers(), known)?;
            }
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = next_address(&url, response.headers())?;
                known.resolved = Some(url.clone());
                continue;
            }
            let server = Server { elsewhere: here != home, hub: self.commit.is_some(), host: &here };
            if let Some(trouble) = refusal(status, response.headers(), &server) {
                return Err(trouble);
            }
            return take(response, file, (start, end), &here, asked_with_version, known);
        }
        Err(Trouble::Final(FetchError::failed("the server redirects in a circle", TRY_AGAIN)))
    }

    /// The hub says with each answer which commit and which version of a large file the answer is about.
    fn check_revision(&self, file: &Listed, headers: &HeaderMap, known: &mut Known) -> Result<(), Trouble> {
        if let (Some(commit), Some(found)) = (&self.commit, text(headers, "x-repo-commit"))
            && commit != found
        {
            return Err(Trouble::changed(format!(
                "the revision changed while it was read, to commit {}",
                shown(found)
            )));
        }
        let Some(found) = text(headers, "x-linked-etag").map(|t| t.trim_matches('"').to_string()) else {
            return Ok(());
        };
        let expected = file.sha256.as_ref().or(known.linked_etag.as_ref());
        if expected.is_some_and(|expected| *expected != found) {
            return Err(Trouble::changed("the hub has another version of the file now"));
        }
        known.linked_etag = Some(found);
        Ok(())
    }
}

/// Checks that an answer of the status 200 or 206 is about the bytes and the version that were asked for.
fn take(
    response: Response<Body>,
    file: &Listed,
    (start, end): (u64, u64),
    here: &str,
    asked_with_version: bool,
    known: &mut Known,
) -> Result<Answer, Trouble> {
    let headers = response.headers();
    let etag = text(headers, "etag").map(str::to_string);
    if let (Some((from, before)), Some(now)) = (&known.etag, &etag)
        && from == here
        && before != now
    {
        return Err(Trouble::changed("the file changed while it was read"));
    }
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = text(headers, "content-range").and_then(content_range);
        let Some((first, last, size)) = range else {
            return Err(Trouble::passing("the server does not say which bytes it sends"));
        };
        if size.is_some_and(|size| size != file.size) {
            let size = size.unwrap_or_default();
            return Err(Trouble::changed(format!(
                "the file has {size} bytes, and the hub lists {}",
                file.size
            )));
        }
        if first != start || last < first || last >= end {
            return Err(Trouble::passing("the server sends other bytes than those that were asked for"));
        }
    } else if asked_with_version && etag.is_none() {
        return Err(Trouble::changed("the file changed while it was read"));
    } else if start != 0 {
        let what = "the server does not send parts of a file";
        return Err(Trouble::Final(FetchError::failed(
            what,
            "Leave out --stream to download the whole file",
        )));
    }
    if let Some(etag) = etag {
        known.etag = Some((here.to_string(), etag));
    }
    Ok(Answer { body: response.into_body().into_reader() })
}

/// Who has answered.
struct Server<'a> {
    /// Whether the answer is from a server that the first one redirects to.
    elsewhere: bool,
    /// Whether the first server is the hub. An object store has no commits.
    hub: bool,
    host: &'a str,
}

/// What a status other than 200 and 206 means.
fn refusal(
    status: StatusCode,
    headers: &HeaderMap,
    &Server { elsewhere, hub, host }: &Server,
) -> Option<Trouble> {
    let code = status.as_u16();
    let failed = |what: String, fix| Some(Trouble::Final(FetchError::failed(what, fix)));
    match code {
        200 | 206 => None,
        408 | 425 | 429 | 500..=599 => {
            let wait =
                text(headers, "retry-after").and_then(|s| s.trim().parse().ok()).map(Duration::from_secs);
            if let Some(wait) = wait.filter(|&w| w > MAX_WAIT) {
                return failed(
                    format!("{host} answers {code} and asks to wait {} seconds", wait.as_secs()),
                    "Wait, and run the same command again",
                );
            }
            Some(Trouble::Passing { why: format!("{host} answers {code}"), wait })
        }
        _ if elsewhere && matches!(code, 400 | 401 | 403 | 404 | 410) => {
            Some(Trouble::Expired(format!("{host} answers {code}")))
        }
        401 | 403 => failed(
            format!("{host} refuses the file ({code})"),
            if hub {
                "Accept the license of the model on its page, then run: hf auth login"
            } else {
                "Check the credentials: the address of a file is valid for as long as they are, and for seven days at most"
            },
        ),
        404 | 410 => failed(
            format!("{host} no longer has the file ({code}): the revision changed while it was read"),
            CHANGED,
        ),
        416 => failed("the file has become shorter while it was read".into(), CHANGED),
        _ => failed(format!("{host} answers {code}"), TRY_AGAIN),
    }
}

/// Errors of the connection pass; an address or a certificate that is wrong stays wrong.
fn passing_or_final(host: &str, error: &ureq::Error) -> Trouble {
    match error {
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::InvalidProxyUrl => {
            Trouble::Final(FetchError::failed(format!("{host}: {error}"), TRY_AGAIN))
        }
        _ => Trouble::passing(format!("{host}: {error}")),
    }
}

fn bad_address(url: &str) -> Trouble {
    let what = format!("'{}' is no address of a file", shown(url));
    Trouble::Final(FetchError::failed(what, "Check HF_ENDPOINT"))
}

/// Cuts text of a server for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port of an address of http or https.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|s| matches!(*s, "http" | "https"))?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

/// The address that an answer redirects to. It may be without a host.
fn next_address(url: &str, headers: &HeaderMap) -> Result<String, Trouble> {
    let target = text(headers, "location").unwrap_or_default();
    let next = match target {
        t if t.starts_with("//") => format!("{}:{t}", url.split(':').next().unwrap_or_default()),
        t if t.starts_with('/') => {
            let host_at = url.find("://").map_or(0, |i| i + 3);
            let end = url[host_at..].find('/').map_or(url.len(), |i| host_at + i);
            format!("{}{t}", &url[..end])
        }
        t => t.to_string(),
    };
    match (url.starts_with("https:"), origin(&next)) {
        (true, Some(to)) if !to.starts_with("https:") => {
            let what = "the server redirects from https to an address without encryption";
            Err(Trouble::Final(FetchError::failed(what, "Check HF_ENDPOINT")))
        }
        (_, Some(_)) => Ok(next),
        (_, None) => Err(bad_address(&next)),
    }
}

/// Parses `bytes 0-99/1000`: first, last and size, which may be `*`.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, size))
}

/// The certificates of the Mozilla list; `SSL_CERT_FILE` names a file with others.
fn root_certificates() -> RootCerts {
    let Some(pem) = std::env::var_os("SSL_CERT_FILE").and_then(|path| std::fs::read(path).ok()) else {
        return RootCerts::WebPki;
    };
    let found = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_tell_hosts_schemes_and_ports_apart() {
        assert_eq!(origin("https://Hub.example/a/b"), origin("https://hub.example:443/c"));
        assert_ne!(origin("https://hub.example/a"), origin("http://hub.example/a"));
        assert_ne!(origin("http://hub.example:81/a"), origin("http://hub.example/a"));
        assert_eq!(origin("file:///etc/passwd"), None);
        assert_eq!(origin("not an address"), None);
    }

    #[test]
    fn a_redirect_may_be_relative_but_not_lose_its_encryption() {
        let to = |url, target: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", target.parse().unwrap());
            next_address(url, &headers).ok()
        };
        assert_eq!(to("https://a.example/x?y", "/z").as_deref(), Some("https://a.example/z"));
        assert_eq!(to("https://a.example/x", "//b.example/z").as_deref(), Some("https://b.example/z"));
        assert_eq!(to("https://a.example/x", "http://a.example/z"), None);
        assert_eq!(to("http://a.example/x", "http://b.example/z").as_deref(), Some("http://b.example/z"));
        assert_eq!(to("http://a.example/x", "file:///etc/passwd"), None);
    }

    #[test]
    fn content_ranges_are_parsed() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 9, Some(100))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        assert_eq!(content_range("bytes 5-/100"), None);
        assert_eq!(content_range("items 5-9/100"), None);
    }
}
