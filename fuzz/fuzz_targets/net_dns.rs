//! A query of a guest's, and what upstream is to have said: no panic, an answer to that query that can be read, and no
//! address that the policy withholds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([flags, high, low], rest)) = data.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let (query, upstream) = rest.split_at(len);
    msb_net::fuzzing::names(query, upstream, flags % 2 == 1);
});
