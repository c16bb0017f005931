//! Policies by which administrators give browsers authorities: what the files become. Pure: bytes in, bytes out.
//!
//! Browsers know those from their first start on, before they have a database of their own.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use serde_json::{Map, Value};

use crate::certificate::CaCertificate;
use crate::error::Reason;

/// Chromium's policy: certificates in base64.
const CHROMIUM: &str = "CACertificates";
/// Firefox's: paths of files.
const FIREFOX: [&str; 3] = ["policies", "Certificates", "Install"];

const NO_POLICIES: Reason = "it does not hold policies as the browser reads them";

/// What Firefox's `policies.json` becomes, so that it names these files and no other that begins with `ours`. `None` if
/// there need not be one.
///
/// # Errors
/// It is not JSON, or of another structure.
pub(crate) fn firefox(
    content: Option<&[u8]>,
    ours: &str,
    files: &[String],
) -> Result<Option<Vec<u8>>, Reason> {
    let mut document = match content {
        Some(content) => serde_json::from_slice(content).map_err(|_| NO_POLICIES)?,
        None => Value::Object(Map::new()),
    };
    let before = document.clone();
    let mut place = &mut document;
    for key in FIREFOX {
        let object = place.as_object_mut().ok_or(NO_POLICIES)?;
        let empty = if key == FIREFOX[2] {
            Value::Array(Vec::new())
        } else {
            Value::Object(Map::new())
        };
        place = object.entry(key).or_insert(empty);
    }
    let installed = place.as_array_mut().ok_or(NO_POLICIES)?;
    let is_ours = |entry: &Value| entry.as_str().is_some_and(|path| path.starts_with(ours));
    let had_ours = installed.iter().any(is_ours);
    let wanted = files.iter().map(|path| Value::String(path.clone()));
    if installed
        .iter()
        .filter(|entry| is_ours(entry))
        .cloned()
        .eq(wanted.clone())
    {
        return Ok(content.map(<[u8]>::to_vec));
    }
    installed.retain(|entry| !is_ours(entry));
    installed.extend(wanted);
    if files.is_empty() && had_ours {
        prune(&mut document, &FIREFOX);
        if document == Value::Object(Map::new()) {
            return Ok(None);
        }
    }
    debug_assert_ne!(document, before);
    Ok(Some(rendered(&document)))
}

/// Takes out what is empty on the way to the last of these keys.
fn prune(value: &mut Value, keys: &[&str]) {
    let (Some(object), [key, below @ ..]) = (value.as_object_mut(), keys) else {
        return;
    };
    let Some(inner) = object.get_mut(*key) else {
        return;
    };
    prune(inner, below);
    let is_empty = match inner {
        Value::Array(inner) => inner.is_empty(),
        Value::Object(inner) => inner.is_empty(),
        _ => false,
    };
    if is_empty {
        object.remove(*key);
    }
}

/// What our own file among Chromium's becomes: Chromium takes a policy from the last file, by name, that has it, so this
/// one says what the `others` say as well. `None` if there need not be one.
///
/// # Errors
/// One of the others has this policy, but in no form that can be read, or comes after ours.
pub(crate) fn chromium(
    ours: &str,
    others: &BTreeMap<String, Vec<u8>>,
    cas: &[CaCertificate],
) -> Result<Option<Vec<u8>>, Reason> {
    if cas.is_empty() {
        return Ok(None);
    }
    let mut certificates = Vec::new();
    for (name, content) in others {
        if memmem::find(content, CHROMIUM.as_bytes()).is_none() {
            continue;
        }
        let document: Value = serde_json::from_slice(content).map_err(|_| NO_POLICIES)?;
        let Some(theirs) = document.get(CHROMIUM) else {
            continue;
        };
        if name.as_str() > ours {
            return Err("a file that comes after it sets the same policy");
        }
        certificates.clone_from(theirs.as_array().ok_or(NO_POLICIES)?);
    }
    for ca in cas {
        let encoded = Value::String(STANDARD.encode(ca.der()));
        if !certificates.contains(&encoded) {
            certificates.push(encoded);
        }
    }
    let document = Map::from_iter([(CHROMIUM.to_owned(), Value::Array(certificates))]);
    Ok(Some(rendered(&Value::Object(document))))
}

fn rendered(document: &Value) -> Vec<u8> {
    format!("{document:#}\n").into_bytes()
}
