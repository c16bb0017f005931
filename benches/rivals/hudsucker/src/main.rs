//! A proxy of hudsucker that replaces a placeholder in header values: `rival-hudsucker ADDRESS CA KEY ROOTS PLACEHOLDER VALUE`.
//!
//! One value, no check of where it goes, no search for other forms, nothing taken out of answers: the least that does
//! what is compared. `TOKIO_WORKER_THREADS` sets its threads, as for msb.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::net::TcpListener;

use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::hyper::Request;
use hudsucker::hyper::header::HeaderValue;
use hudsucker::rcgen::{Issuer, KeyPair};
use hudsucker::{Body, HttpContext, HttpHandler, Proxy, RequestOrResponse};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

#[derive(Clone)]
struct Replace {
    placeholder: String,
    value: String,
}

impl HttpHandler for Replace {
    async fn handle_request(
        &mut self,
        _: &HttpContext,
        mut request: Request<Body>,
    ) -> RequestOrResponse {
        for field in request.headers_mut().values_mut() {
            if let Ok(text) = field.to_str()
                && text.contains(&self.placeholder)
                && let Ok(replaced) =
                    HeaderValue::from_str(&text.replace(&self.placeholder, &self.value))
            {
                *field = replaced;
            }
        }
        request.into()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, key, roots, placeholder, value] = args.as_slice() else {
        return Err("write ADDRESS CA KEY ROOTS PLACEHOLDER VALUE".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = KeyPair::from_pem(&fs::read_to_string(key)?)?;
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(ca)?, key)?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots)? {
        store.add(certificate?)?;
    }
    let tls = ClientConfig::builder_with_provider(provider.clone().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    let handler = Replace {
        placeholder: placeholder.clone(),
        value: value.clone(),
    };
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let proxy = Proxy::builder()
            .with_listener(tokio::net::TcpListener::from_std(listener)?)
            .with_ca(RcgenAuthority::new(issuer, 1_000, provider))
            .with_http_connector(connector)
            .with_http_handler(handler)
            .build()?;
        eprintln!("listening");
        proxy.start().await.map_err(Into::into)
    })
}
