//! The programs, and what each is told to fetch.

/// One program and how it is run.
#[derive(Debug)]
pub(crate) struct Client {
    /// As people call it.
    pub(crate) name: &'static str,
    /// Makes it say its version.
    pub(crate) version: &'static str,
    /// Makes it fetch something. `{url}`, `{host}` and `{port}` stand for the server.
    pub(crate) line: &'static str,
    /// What its output has to hold, if not the answer.
    pub(crate) expected: Option<&'static str>,
    /// Where it finds the authority.
    pub(crate) reads: &'static str,
}

const fn client(
    name: &'static str,
    version: &'static str,
    line: &'static str,
    reads: &'static str,
) -> Client {
    Client {
        name,
        version,
        line,
        expected: None,
        reads,
    }
}

impl Client {
    const fn expects(self, expected: &'static str) -> Self {
        Self {
            expected: Some(expected),
            ..self
        }
    }
}

const BUNDLE: &str = "the system's bundle";
const DIRECTORY: &str = "the hashed directory";

/// In the order of the table.
pub(crate) const CLIENTS: &[Client] = &[
    client("curl", "curl -V", "curl -sS {url}/", BUNDLE),
    client("wget", "wget -V", "wget -q -O - {url}/", BUNDLE),
    client(
        "openssl s_client",
        "openssl version",
        "printf 'GET / HTTP/1.0\\r\\nHost: {host}:{port}\\r\\n\\r\\n' | openssl s_client -quiet \
         -verify_return_error -servername {host} -connect {host}:{port}",
        DIRECTORY,
    ),
    client(
        "gnutls-cli",
        "gnutls-cli --version",
        "gnutls-cli --port {port} {host} </dev/null",
        BUNDLE,
    )
    .expects("The certificate is trusted"),
    client(
        "git",
        "git --version",
        "git ls-remote {url}/repository",
        BUNDLE,
    ),
    client(
        "apt",
        "apt-get --version",
        "/usr/lib/apt/apt-helper download-file {url}/file /tmp/file >&2; cat /tmp/file && rm /tmp/file",
        BUNDLE,
    ),
    client(
        "Python urllib",
        "python3 -V",
        "python3 -c 'import sys,urllib.request as u; print(u.urlopen(sys.argv[1]).read())' {url}/",
        "the bundle and the hashed directory, as OpenSSL does",
    ),
    client(
        "Python requests",
        "python3 -c 'import requests; print(requests.__version__)'",
        "python3 -c 'import sys,requests; print(requests.get(sys.argv[1]).text)' {url}/",
        "certifi's bundle; `REQUESTS_CA_BUNDLE`",
    ),
    client(
        "Python httpx",
        "python3 -c 'import httpx; print(httpx.__version__)'",
        "python3 -c 'import sys,httpx; print(httpx.get(sys.argv[1]).text)' {url}/",
        "certifi's bundle; `SSL_CERT_FILE`",
    ),
    client(
        "Python aiohttp",
        "python3 -c 'import aiohttp; print(aiohttp.__version__)'",
        "python3 -c '
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession() as session, session.get(sys.argv[1]) as answer:
        print(await answer.text())
asyncio.run(main())' {url}/",
        "the bundle and the hashed directory, as OpenSSL does",
    ),
    client(
        "pip",
        "python3 -m pip --version",
        "python3 -m pip --no-cache-dir --retries 0 index versions demo --index-url {url}/simple/",
        "certifi's bundle, or Debian's; `PIP_CERT`",
    )
    .expects("47.11"),
    client(
        "Node https",
        "node --version",
        "node -e 'require(\"https\").get(process.argv[1], a => a.pipe(process.stdout))' {url}/",
        "the system's, as Debian builds it; else its own roots and `NODE_EXTRA_CA_CERTS`",
    ),
    client(
        "Node fetch",
        "node --version",
        "node -e 'fetch(process.argv[1]).then(a => a.text()).then(console.log)' {url}/",
        "the system's, as Debian builds it; else its own roots and `NODE_EXTRA_CA_CERTS`",
    ),
    client(
        "npm",
        "node /opt/npm/node_modules/npm/bin/npm-cli.js --version",
        "node /opt/npm/node_modules/npm/bin/npm-cli.js view demo description --fetch-retries 0 \
         --no-update-notifier --registry {url}/",
        "as Node does",
    ),
    client(
        "Java HttpClient",
        "java --version",
        "java -cp /opt/java-client Client {url}/ && keytool -list -cacerts -storepass changeit | grep -q msb-ca-",
        "`cacerts`",
    ),
    client("Go", "echo 1.19", "go-client {url}/", BUNDLE),
    client(
        "Ruby",
        "ruby --version",
        "ruby -ropen-uri -e 'print URI.open(ARGV[0]).read' {url}/",
        "the bundle and the hashed directory, as OpenSSL does",
    ),
    client(
        "Perl LWP",
        "perl -MLWP -e 'print LWP->VERSION'",
        "perl -MLWP::UserAgent -e '$a = LWP::UserAgent->new->get($ARGV[0]); print $a->content; exit !$a->is_success' {url}/",
        "the bundle and the hashed directory, as OpenSSL does",
    ),
    client(
        "PHP streams",
        "php -v",
        "php -r 'echo file_get_contents($argv[1]);' {url}/",
        "the bundle and the hashed directory, as OpenSSL does",
    ),
    client(
        "PHP curl",
        "php -v",
        "php -r '$c = curl_init($argv[1]); exit(curl_exec($c) ? 0 : 1);' {url}/",
        BUNDLE,
    ),
    client(
        "cargo",
        "cargo --version",
        "CARGO_REGISTRIES_DEMO_INDEX=sparse+{url}/ CARGO_NET_RETRY=0 cargo search demo --registry demo",
        BUNDLE,
    ),
];
