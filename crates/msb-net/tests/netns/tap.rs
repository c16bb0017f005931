//! A TAP device as the link.

use msb_net::Event;

use crate::rig::{Rig, authority, gateways, output, pattern, tool, web_server};
use crate::transfer;

#[test]
fn curl_gets_and_puts_megabytes_over_both_families() {
    let (Some(curl), Some(rig)) = (tool("curl"), Rig::start("host")) else {
        return;
    };
    let (port, len) = (web_server(), 4_000_000);
    for gateway in gateways() {
        let url = format!("http://{}/{len}", authority(gateway, port));
        let got = output(rig.guest.command(&curl).args(["-sS", &url]));
        assert!(got.status.success(), "{url}: {got:?}");
        assert!(
            got.stdout == pattern(len),
            "{url}: {} octets",
            got.stdout.len()
        );

        assert_eq!(transfer::put(&rig, &curl, &url, len), b"same", "{url}");
    }
}

#[test]
fn a_denied_destination_is_refused_to_a_kernel_at_once() {
    let Some(rig) = Rig::start("none") else {
        return;
    };
    let connect = "exec 3<>/dev/tcp/192.0.2.1/80";
    let refused = output(rig.guest.command("bash").args(["-c", connect]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("Connection refused"), "{said}");
    let events = rig.events();
    assert!(matches!(events[..], [Event::Denied { .. }]), "{events:?}");
}
