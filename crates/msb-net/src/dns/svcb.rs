//! SVCB and HTTPS records (RFC 9460) as the guest may see them: without what would take a connection
//! out of sight. ECH hides the name, h3 leaves TCP, and address hints bypass the pin table.

use hickory_proto::rr::rdata::HTTPS;
use hickory_proto::rr::rdata::svcb::{Alpn, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::{RData, Record};

/// The record without ECH, h3 and address hints; `None`: nothing usable is left.
pub(crate) fn strip(mut record: Record) -> Option<Record> {
    let stripped = match record.data {
        RData::HTTPS(HTTPS(svcb)) => RData::HTTPS(HTTPS(strip_params(svcb)?)),
        RData::SVCB(svcb) => RData::SVCB(strip_params(svcb)?),
        other => other,
    };
    record.data = stripped;
    Some(record)
}

fn strip_params(mut svcb: SVCB) -> Option<SVCB> {
    let had_alpn = svcb
        .svc_params
        .iter()
        .any(|(key, _)| *key == SvcParamKey::Alpn);
    let mut params = Vec::with_capacity(svcb.svc_params.len());
    for (key, value) in svcb.svc_params {
        match (key, value) {
            // A client must ignore a record that lacks a mandatory key, so a stripped one is useless.
            (SvcParamKey::Mandatory, _) => return None,
            (SvcParamKey::EchConfigList | SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint, _) => {}
            (key, SvcParamValue::Alpn(Alpn(protocols))) => {
                let kept: Vec<_> = protocols.into_iter().filter(|id| !is_http3(id)).collect();
                if !kept.is_empty() {
                    params.push((key, SvcParamValue::Alpn(Alpn(kept))));
                }
            }
            other => params.push(other),
        }
    }
    let has_alpn = params.iter().any(|(key, _)| *key == SvcParamKey::Alpn);
    if had_alpn && !has_alpn {
        // Only h3 was offered. Without `alpn` the default protocol applies, unless it is switched off.
        if params
            .iter()
            .any(|(key, _)| *key == SvcParamKey::NoDefaultAlpn)
        {
            return None;
        }
    }
    svcb.svc_params = params;
    Some(svcb)
}

fn is_http3(protocol: &str) -> bool {
    protocol == "h3" || protocol.starts_with("h3-")
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::rdata::svcb::{EchConfigList, IpHint};

    use super::*;

    #[track_caller]
    fn check(params: Vec<(SvcParamKey, SvcParamValue)>, kept: Option<Vec<SvcParamKey>>) {
        let name = Name::from_str("example.org.").unwrap();
        let record = Record::from_rdata(
            name,
            60,
            RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params))),
        );
        let keys = strip(record).map(|record| match record.data {
            RData::HTTPS(HTTPS(svcb)) => svcb.svc_params.into_iter().map(|(key, _)| key).collect(),
            other => panic!("{other:?}"),
        });
        assert_eq!(keys, kept);
    }

    fn alpn(protocols: &[&str]) -> (SvcParamKey, SvcParamValue) {
        let protocols = protocols.iter().map(|&id| id.to_owned()).collect();
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(protocols)))
    }

    #[test]
    fn ech_h3_and_hints_are_removed() {
        let ech = (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(vec![1, 2])),
        );
        let hint = (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A::new(192, 0, 2, 1)])),
        );
        let port = (SvcParamKey::Port, SvcParamValue::Port(8443));
        check(
            vec![alpn(&["h2", "h3", "h3-29"]), port, hint, ech],
            Some(vec![SvcParamKey::Alpn, SvcParamKey::Port]),
        );
        check(vec![alpn(&["h3"])], Some(vec![]));
        check(
            vec![
                alpn(&["h3"]),
                (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn),
            ],
            None,
        );
    }
}
