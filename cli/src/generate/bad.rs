//! Records that no collector may accept, as broken clients send them.

use super::random::Random;

/// A broken copy of a good event.
pub(super) fn spoil(random: &mut Random, json: &[u8]) -> Vec<u8> {
    match random.below(7) {
        // The connection broke off.
        0 => json[..json.len() * random.between(30, 90) as usize / 100].to_vec(),
        1 => without(json, b"\"id\":\"", b"\","),
        2 => replaced(json, b"\"sequence\":", b",", b"\"many\""),
        3 => replaced(json, b"\"time\":", b",", b"1772600767"),
        // A clock that is 70 years ahead.
        4 => replaced(json, b"\"time\":\"20", b"-", b"96"),
        // What was written, not that something was written.
        5 => inserted(json, b"\"data\":{", b"\"prompt\":\"Please fix the login page\","),
        _ => inserted(json, b"\"source\":\"", b"\xff\xfe"),
    }
}

fn find(json: &[u8], part: &[u8]) -> usize {
    json.windows(part.len()).position(|window| window == part).expect("each generated event has this attribute")
}

fn inserted(json: &[u8], after: &[u8], insert: &[u8]) -> Vec<u8> {
    let at = find(json, after) + after.len();
    [&json[..at], insert, &json[at..]].concat()
}

/// What stands between `before` and the next `until`, replaced.
fn replaced(json: &[u8], before: &[u8], until: &[u8], by: &[u8]) -> Vec<u8> {
    let from = find(json, before) + before.len();
    let to = from + find(&json[from..], until);
    [&json[..from], by, &json[to..]].concat()
}

fn without(json: &[u8], from: &[u8], through: &[u8]) -> Vec<u8> {
    let from = find(json, from);
    let to = from + find(&json[from..], through) + through.len();
    [&json[..from], &json[to..]].concat()
}
