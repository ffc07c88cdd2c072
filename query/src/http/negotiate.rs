//! What the client takes: the format by `Accept` (RFC 9110 §12.5.1), and whether it has the answer already.

use axum::http::{HeaderMap, header};

use super::problem::Problem;
use crate::formats::Format;

/// The format that the client likes best; JSON without an `Accept`.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let ranges: Vec<Range<'_>> = values.iter().flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
    if values.iter().all(|value| value.trim().is_empty()) {
        return Ok(Format::Json);
    }
    let rank = |format: &Format| {
        // The most specific range that covers the type decides its weight.
        let covering = ranges.iter().filter(|range| range.covers(*format));
        covering.max_by_key(|range| range.specificity()).map(|range| (range.weight, range.specificity()))
    };
    let mut best = None;
    for format in Format::ALL {
        match rank(&format) {
            Some(rank) if rank.0 > 0 && best.is_none_or(|(_, so_far)| rank > so_far) => best = Some((format, rank)),
            _ => {}
        }
    }
    best.map(|(format, _)| format).ok_or_else(|| Problem::not_acceptable(&Format::ALL.map(Format::media_type)))
}

/// One media range of an `Accept`.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// `q`, in thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, subtype) = parts.next()?.trim().split_once('/')?;
        let mut weight = 1000;
        for parameter in parts {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("q")
            {
                let value: f32 = value.trim().parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
                weight = (value * 1000.0) as u16;
            }
        }
        Some(Self { kind, subtype, weight })
    }

    fn covers(&self, format: Format) -> bool {
        let (kind, subtype) = format.media_type().split_once('/').expect("media types have a slash");
        let same = |range: &str, own: &str| range == "*" || range.eq_ignore_ascii_case(own);
        // Names in use for the same formats.
        let other_name = matches!(
            (format, self.subtype),
            (Format::Ndjson, "ndjson" | "jsonl" | "x-jsonlines") | (Format::Parquet, "parquet" | "x-parquet")
        );
        same(self.kind, kind) && (same(self.subtype, subtype) || other_name)
    }

    fn specificity(&self) -> u8 {
        u8::from(self.kind != "*") + u8::from(self.subtype != "*")
    }
}

/// Whether `If-None-Match` names `etag` (weak comparison, RFC 9110 §13.1.2).
pub(super) fn has_it(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}
