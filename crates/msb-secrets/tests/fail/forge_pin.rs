//! A pin is made by the table of DNS answers only.

use msb_name::HostName;
use msb_policy::Pin;

fn main() {
    let name: HostName = "evil.test".parse().unwrap();
    let _ = Pin { name, address: [6, 6, 6, 6].into() };
}
