//! git's own server, `git http-backend`, behind ours (git-http-backend(1), RFC 3875).

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::lab::VALUE;
use crate::record::Record;

/// Whoever comes without the value as a password is asked for it.
pub(super) async fn answer(
    record: &Record,
    path: &str,
    query: Option<&str>,
    repositories: &Path,
) -> Result<Response<Bytes>> {
    let credentials = format!("Basic {}", BASE64_STANDARD.encode(format!("user:{VALUE}")));
    if record.header("authorization") != Some(&credentials) {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        let realm = HeaderValue::from_static("Basic realm=\"git\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, realm);
        return Ok(response);
    }
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REMOTE_USER", "user")
        .env("REQUEST_METHOD", &record.method)
        .env("PATH_INFO", format!("/{path}"))
        .env("QUERY_STRING", query.unwrap_or_default())
        .env("CONTENT_LENGTH", record.body.len().to_string());
    for (variable, name) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        command.env(variable, record.header(name).unwrap_or_default());
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start git")?;
    let mut stdin = child.stdin.take().context("no input")?;
    let body = record.body.clone();
    tokio::spawn(async move {
        // It may end without reading all.
        let _ = stdin.write_all(&body).await;
    });
    response(&child.wait_with_output().await?.stdout)
}

/// From what a CGI program writes.
fn response(output: &[u8]) -> Result<Response<Bytes>> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.context("git http-backend wrote no head")?;
    let mut response = Response::new(Bytes::copy_from_slice(&output[end + 4..]));
    for line in std::str::from_utf8(&output[..end])?.lines() {
        let (name, value) = line.split_once(": ").context("no field")?;
        if name == "Status" {
            *response.status_mut() = value.split(' ').next().unwrap_or_default().parse()?;
        } else {
            let name = HeaderName::try_from(name)?;
            response
                .headers_mut()
                .insert(name, HeaderValue::try_from(value)?);
        }
    }
    Ok(response)
}
