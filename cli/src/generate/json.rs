//! JSON text, written directly: no tree, no allocation but the event's own buffer.

/// Writes one event.
pub(super) struct Json(pub(super) Vec<u8>);

impl Json {
    pub(super) fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// `,"key":"value"`. The value must need no escapes, which holds for all that the generator makes.
    pub(super) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key).raw("\"").raw(value).raw("\"")
    }

    /// `,"key":value`.
    pub(super) fn int(&mut self, key: &str, value: i64) -> &mut Self {
        self.key(key).number(value)
    }

    /// `,"key":true`.
    pub(super) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key).raw(if value { "true" } else { "false" })
    }

    /// `,"key":"12.345678"`, from millionths.
    pub(super) fn decimal(&mut self, key: &str, micros: i64) -> &mut Self {
        self.key(key).raw("\"").number(micros / 1_000_000).raw(".");
        self.padded((micros % 1_000_000) as u32, 6);
        self.raw("\"")
    }

    /// `,"key":"2026-03-04T05:06:07.123456Z"`.
    pub(super) fn time(&mut self, key: &str, unix_us: i64) -> &mut Self {
        self.key(key).raw("\"");
        let (days, us) = (unix_us.div_euclid(86_400_000_000), unix_us.rem_euclid(86_400_000_000));
        let (year, month, day) = civil(days);
        let seconds = (us / 1_000_000) as u32;
        self.padded(year as u32, 4);
        self.raw("-").padded(month, 2);
        self.raw("-").padded(day, 2);
        self.raw("T").padded(seconds / 3600, 2);
        self.raw(":").padded(seconds / 60 % 60, 2);
        self.raw(":").padded(seconds % 60, 2);
        self.raw(".").padded((us % 1_000_000) as u32, 6);
        self.raw("Z\"")
    }

    /// `,"key":"019a…"`.
    pub(super) fn uuid(&mut self, key: &str, uuid: u128) -> &mut Self {
        self.key(key).raw("\"");
        push_uuid(&mut self.0, uuid);
        self.raw("\"")
    }

    fn key(&mut self, key: &str) -> &mut Self {
        // A member that is the first of its object follows the brace.
        let comma = if self.0.last() == Some(&b'{') { "\"" } else { ",\"" };
        self.raw(comma).raw(key).raw("\":")
    }

    fn number(&mut self, value: i64) -> &mut Self {
        let mut digits = [0_u8; 20];
        let (mut at, mut rest) = (digits.len(), value.unsigned_abs());
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            self.0.push(b'-');
        }
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    fn padded(&mut self, value: u32, width: u32) -> &mut Self {
        let mut unit = 10_u32.pow(width - 1);
        while unit > 0 {
            self.0.push(b'0' + (value / unit % 10) as u8);
            unit /= 10;
        }
        self
    }
}

/// Appends the hyphenated form.
fn push_uuid(out: &mut Vec<u8>, uuid: u128) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (index, byte) in uuid.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// A UUIDv7 (RFC 9562 §5.7) of this instant (µs).
pub(super) fn uuid_v7(unix_us: i64, random: u128) -> u128 {
    let ms = (unix_us / 1000) as u128;
    (ms << 80) | (7 << 76) | (((random >> 64) & 0xfff) << 64) | (0b10 << 62) | (random & ((1 << 62) - 1))
}

/// Year, month and day of a count of days since 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
